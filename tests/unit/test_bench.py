# SPDX-License-Identifier: MIT
"""xloop bench without a mount: the arithmetic, the table, what is asked for, and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from xloop.bench import place, report, stats
from xloop.bench.crew import Burners, Crew, Failure, Measured
from xloop.bench.measure import Plan, Results, with_needs
from xloop.bench.measure import Result as Measurements
from xloop.bench.rows import METADATA, QUICK, WORKLOADS, Sizes, operations
from xloop.bench.subjects import KNOWN, Native, Peer, Program, Subject, Xloop, parse_against
from xloop.bench.workloads import all_rows, make_material
from xloop.cli.bench import bench
from xloop.errors import OptionError, XloopError
from xloop.options import MountOptions

TINY = Sizes(files=30, big=1 << 20, ios=10, tree=60, repository=20, headers=10)


# -- arithmetic ---------------------------------------------------------------------------------


def test_spread_is_median_and_quartiles() -> None:
    assert stats.spread([7, 1, 3, 5, 9]) == (5, 3, 7)
    assert stats.spread([1, 2, 3, 4]) == (2.5, 1.75, 3.25)


def test_one_disturbed_round_of_seven_moves_neither_median_nor_quartiles() -> None:
    assert stats.spread([2, 2, 2, 2, 2, 2, 1000]) == (2, 2, 2)


def test_with_few_values_the_spread_is_all_of_them() -> None:
    assert stats.spread([3, 1]) == (2, 1, 3)
    assert stats.spread([4]) == (4, 4, 4)


def test_ratios_are_those_of_the_same_round() -> None:
    # The machine is ten times slower in the second round: no ratio shows it.
    assert stats.ratios([2, 20, 2], [1, 10, 1]) == [2, 2, 2]
    with pytest.raises(ValueError, match="zip"):
        stats.ratios([1, 2], [1])


def test_the_geometric_mean_is_the_same_from_both_sides() -> None:
    mean = stats.geometric_mean([2, 8, 0.5])
    assert mean == pytest.approx(2)
    assert stats.geometric_mean([1 / 2, 1 / 8, 2]) == pytest.approx(1 / mean)
    assert stats.geometric_mean([]) is None


def test_the_best_is_the_one_with_the_least_median() -> None:
    assert stats.best({"a": [3, 3, 3], "b": [1, 2, 9]}) == "b"
    assert stats.best({}) is None


# -- the report ---------------------------------------------------------------------------------


class Shown(Subject):
    """A subject that was measured elsewhere."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name)
        self.kind = kind

    def mount(self, source: Path, mountpoint: Path) -> None:
        raise NotImplementedError

    def unmount(self) -> None:
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        return {"version": "1.2"}


def measured(row: str, clients: int = 1, **seconds: Sequence[float]) -> Measurements:
    """Return what was measured on each subject: seconds for one, round by round."""
    values = {name: [Measured(s * 10, 10) for s in found] for name, found in seconds.items()}
    return Measurements(all_rows()[row], clients, values)


def reported(*results: Measurements, **more: Any) -> report.Report:
    subjects = [Native(), Shown("xloop", "xloop"), Shown("fast", "peer"), Shown("slow", "peer")]
    plan = Plan(
        place=place.Place("/somewhere", "tmpfs", ("a remark",)),
        subjects=subjects[1:],
        rows=[result.row for result in results],
        sizes=QUICK,
        rounds=3,
        work_rounds=3,
        clients=sorted({result.clients for result in results}),
        busy=False,
    )
    found = Results(list(results), subjects, load_before=0.0, load_after=0.1, **more)
    return report.build(plan, found, {"compile": "no compiler"})


CREATE = {"native": [1, 1, 1], "xloop": [4, 40, 4], "fast": [2, 20, 2], "slow": [8, 80, 8]}
UNLINK = {"native": [1, 1, 1], "xloop": [9, 9, 9], "fast": [6, 6, 6], "slow": [3, 3, 3]}


def test_a_report_has_medians_ratios_and_the_best_peer() -> None:
    (row,) = reported(measured("create", **CREATE))["results"]
    assert row["subjects"]["xloop"] == {
        "rounds": [4e6, 40e6, 4e6],
        "median": 4e6,
        "quartiles": [4e6, 40e6],
    }
    assert row["best_peer"] == "fast"
    assert row["ratios"]["xloop"]["native"]["rounds"] == [4, 40, 4]
    assert row["ratios"]["xloop"]["fast"] == {"rounds": [2, 2, 2], "median": 2, "quartiles": [2, 2]}
    assert row["ratios"]["slow"].keys() == {"native"}


def test_a_rate_is_shown_as_such_and_its_ratio_is_still_of_times() -> None:
    found = {"native": [1e-9], "xloop": [2e-9], "fast": [4e-9], "slow": [4e-9]}
    (row,) = reported(measured("write", **found))["results"]
    assert row["subjects"]["native"]["median"] == pytest.approx(1000)
    assert row["subjects"]["xloop"]["median"] == pytest.approx(500)
    assert row["ratios"]["xloop"]["native"]["median"] == pytest.approx(2)


def test_the_geometric_means_are_of_metadata_and_of_the_best_peer_of_each_row() -> None:
    results = (
        measured("create", **CREATE),
        measured("unlink", **UNLINK),
        measured("untar", **CREATE),
    )
    (means,) = reported(*results)["geometric_means"]
    assert means["rows"] == ["create", "unlink"]
    assert means["ratios"]["xloop"] == {
        "native": pytest.approx(6),
        "fast": pytest.approx(math.sqrt(3)),
        "slow": pytest.approx(math.sqrt(1.5)),
        "best_peer": pytest.approx(math.sqrt(6)),  # 4 to 2, and 9 to 3
    }
    assert means["ratios"]["slow"] == {"native": pytest.approx(math.sqrt(24))}


def test_a_mean_that_lacks_a_row_is_none() -> None:
    failing = measured("unlink", **UNLINK)
    failing.failures["xloop"] = "out of order"
    found = reported(measured("create", **CREATE), failing)
    (means,) = found["geometric_means"]
    assert means["ratios"]["xloop"]["native"] is None
    assert means["ratios"]["fast"]["native"] is not None
    assert "xloop" not in found["results"][1]["subjects"]


def test_a_report_is_json() -> None:
    found = reported(measured("create", **CREATE))
    assert json.loads(json.dumps(found)) == found


def test_the_table_is_aligned_and_says_all() -> None:
    failing = measured("unlink", **UNLINK)
    failing.failures["slow"] = "out of order"
    text = report.table(
        reported(
            measured("create", **CREATE),
            failing,
            measured("untar", **CREATE),
            left_out={"lost": "did not mount"},
        )
    )
    lines = text.splitlines()
    head = next(n for n, line in enumerate(lines) if line.split()[:2] == ["native", "xloop"])
    assert " ".join(lines[head].split()) == "native xloop fast slow xloop:native xloop:best peer"
    create, unlink, between, untar = lines[head + 1 : head + 5]
    assert create.startswith("create+close, us ")
    figures = "1000000 4000000 2000000 8000000 4.00x (4.00..40.0) 2.00x (2.00..2.00) fast"
    assert " ".join(create.split()[2:]) == figures
    assert "failed" in unlink
    assert between == ""
    assert untar.startswith("untar of a tree, s ")
    assert " ".join(untar.split()[5:9]) == "1.00 4.00 2.00 8.00"
    assert {len(line) for line in lines[head : head + 3]} == {len(create)}
    notes = "\n".join(lines[head + 5 :])
    for words in (
        "geometric mean of the ratios",
        "a remark",
        "lost was left out: did not mount",
        "compile was skipped: no compiler",
        "unlink failed on slow: out of order",
    ):
        assert words in notes


def test_many_clients_are_told_as_throughput() -> None:
    results = measured("create", **CREATE), measured("create", clients=4, **CREATE)
    text = report.table(reported(*results))
    assert "4 clients at once" in text
    assert "create+close, ops/s 1.00 0.250 0.500 0.125" in " ".join(text.split())


# -- rows ---------------------------------------------------------------------------------------


def test_a_row_brings_what_it_needs_in_the_right_order() -> None:
    every = all_rows()
    names = [row.name for row in with_needs([every["unlink"], every["open-read"]])]
    assert names == ["create", "open-write", "open-read", "unlink"]


def test_every_need_comes_before_and_is_of_the_same_group() -> None:
    seen: dict[str, str] = {}
    for row in all_rows().values():
        assert {seen[need] for need in row.needs} <= {row.group}
        seen[row.name] = row.group


@pytest.fixture
def crew(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Crew(2, TINY, tmp_path_factory.mktemp("material"))
    yield made
    assert made.close()


def test_every_row_can_be_done_by_two_at_once(crew: Crew, tmp_path: Path) -> None:
    tops = [str(tmp_path / "one"), str(tmp_path / "two")]
    crew.tell("begin", tops)
    for row in operations().values():
        found = crew.measure(row.name, tops)
        assert found.seconds > 0
        assert found.amount > 0
        if row.name == "create":
            assert found.amount == 2 * TINY.files
            assert sorted(os.listdir(tops[1])) == sorted(f"file{n}" for n in range(TINY.files))
    assert os.listdir(tops[0]) == ["big"]
    crew.tell("end", tops)
    assert os.listdir(tmp_path) == []


def test_every_workload_can_be_done(tmp_path: Path) -> None:
    rows = [row for row in all_rows().values() if row.group == WORKLOADS]
    missing = {program for row in rows for program in row.programs if not shutil.which(program)}
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    material = tmp_path / "material"
    material.mkdir()
    make_material(material, rows, TINY)
    with tarfile.open(material / "tree.tar") as archive:
        assert sum(member.isreg() for member in archive) == TINY.tree
    crew = Crew(1, TINY, material)
    try:
        top = tmp_path / "top"
        crew.tell("begin", [str(top)])
        for row in rows:
            assert crew.measure(row.name, [str(top)]).seconds > 0
            if row.name == "untar":
                files = [path for path in top.rglob("*") if path.is_file()]
                assert len(files) == TINY.tree
        assert not (top / "tree").exists()
        assert subprocess.run([top / "sources" / "program"]).returncode == 0
        crew.tell("end", [str(top)])
    finally:
        assert crew.close()


def test_what_cannot_be_done_is_said_and_the_next_row_can(crew: Crew, tmp_path: Path) -> None:
    tops = [str(tmp_path / "one"), str(tmp_path / "two")]
    crew.tell("begin", tops)
    # One of two: the other one is ready, and waits to begin.
    (tmp_path / "two" / "file3").touch()
    with pytest.raises(Failure, match="FileExistsError"):
        crew.measure("create", tops)
    assert crew.measure("write", tops).amount == 2 * TINY.big


def test_an_end_ends_the_programs_of_the_clients(tmp_path: Path) -> None:
    crew = Crew(1, TINY, tmp_path)
    crew.tell("begin", [str(tmp_path / "one")])
    pids = [client.pid for client in crew._clients]
    assert crew.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_burners_end() -> None:
    burners = Burners(2)
    pids = [process.pid for process in burners._processes]
    assert [Path(f"/proc/{pid}/stat").exists() for pid in pids] == [True, True]
    burners.close()
    assert [Path(f"/proc/{pid}/stat").exists() for pid in pids] == [False, False]


def test_burners_end_with_whoever_started_them(eventually: Any) -> None:
    program = (
        "from xloop.bench.crew import Burners; import os, sys;"
        "print(Burners(1)._processes[0].pid, flush=True); sys.stdin.read(); os._exit(0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        starter.kill()

    def gone() -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return True

    assert eventually(gone)


# -- subjects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("program", KNOWN, ids=lambda program: program.name)
def test_the_commands_of_known_programs_can_be_made(program: Program) -> None:
    peer = Peer(program, MountOptions(attr_timeout=3.0, entry_timeout=4.0))
    words = peer.words("/a source", "/a mountpoint")
    assert any("/a source" in word for word in words)
    assert "/a mountpoint" in words
    assert not any("{" in word for word in words)


def test_a_command_of_ones_own_may_hold_paths_with_blanks() -> None:
    program = parse_against(f"mine={sys.executable} 'an argument' {{source}} x{{mountpoint}}")
    words = Peer(program, MountOptions()).words("/s p", "/m p")
    assert words == [sys.executable, "an argument", "/s p", "x/m p"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bindsf", "did you mean 'bindfs'?"),
        ("x=ls {source}", "lacks {mountpoint}"),
        ("x=ls {sources} {mountpoint}", "malformed"),
        ("x=ls '{source} {mountpoint}", "malformed"),
        ("x=no-such-program-here {source} {mountpoint}", "there is no program"),
        ("../x=ls {source} {mountpoint}", "cannot be a name"),
    ],
)
def test_against_what_is_not_understood(text: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_against(text)
    assert said in str(caught.value)


def test_a_known_program_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(OptionError, match="mergerfs is not installed"):
        parse_against("mergerfs")


# -- the command --------------------------------------------------------------------------------


def called(*args: str) -> Result:
    return CliRunner().invoke(bench, list(args))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--only", "chmd"], "there is no row 'chmd'; did you mean 'chmod'?"),
        (["--only", "create,workload"], "did you mean 'workloads'?"),
        (["--clients", "1,x"], "'x' is not a number from 1 to"),
        (["--clients", "0"], "'0' is not a number from 1 to"),
        (["--clients", "2", "--only", "untar"], "workloads are for one client"),
        (["--rounds", "0"], "0 is not in the range x>=1"),
        (["-o", "passthru"], "did you mean 'passthrough'?"),
        (["--variant", "served"], "has no '='"),
        (["--variant", "served=-x 3"], "'-x' is not understood"),
        (["--variant", "served=-o"], "'-o' is not understood"),
        (["--variant", "native=-o ro"], "two subjects called 'native'"),
        (["--variant", "a=-o noatime", "--variant", "a=-o sync"], "two subjects called 'a'"),
        (["--against", "none", "--against", "bindfs"], "contradict each other"),
    ],
)
def test_what_is_not_understood_is_refused(args: list[str], said: str) -> None:
    done = called(*args)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["/no/such/directory"], "source '/no/such/directory' does not exist"),
        (["/etc/passwd"], "not a directory"),
        (["--chart", "chart.pdf"], "must end in .png or .svg"),
        (["--chart", "/no/such/directory/chart.svg"], "cannot be written"),
        (["--backend", "devfuze"], "did you mean 'devfuse'?"),
        (["--variant", "other=--backend devfuze"], "did you mean 'devfuse'?"),
    ],
)
def test_what_cannot_be_used_is_refused(args: list[str], said: str) -> None:
    done = called("--against", "none", *args)
    assert isinstance(done.exception, XloopError)
    assert said in str(done.exception)


def test_without_matplotlib_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = called("--against", "none", "--chart", str(tmp_path / "chart.svg"))
    assert f"{sys.executable} -m pip install matplotlib" in str(done.exception)


def test_too_little_room_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(place, "_free", lambda path: 1 << 20)
    with pytest.raises(XloopError, match="has 1 MiB left, and the benchmark needs 500"):
        place.choose_place(str(tmp_path), 500 << 20)
    assert os.listdir(tmp_path) == []


def test_without_source_a_small_tmpfs_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(place, "_free", lambda path: 1 << 20 if path == "/dev/shm" else 1 << 40)
    monkeypatch.setattr(place, "_fstype", lambda path: "tmpfs" if path == "/dev/shm" else "ext4")
    monkeypatch.setattr(place.tempfile, "gettempdir", lambda: str(tmp_path))
    found = place.choose_place(None, 500 << 20)
    assert found.path == str(tmp_path)
    assert "/dev/shm has 1 MiB left" in found.remarks[0]
    assert "inodes that were deleted last" in found.remarks[1]


def test_help_names_every_row_and_every_known_program() -> None:
    said = called("--help").output
    words = set(said.replace(",", " ").replace(";", " ").split())
    assert set(all_rows()) <= words
    assert {program.name for program in KNOWN} <= words


def test_variants_have_the_options_of_all_and_their_own() -> None:
    from xloop.bench.subjects import parse_variant

    variant = parse_variant("served=-o nopassthrough --backend devfuse", ["noatime"], "auto")
    assert variant.options == replace(MountOptions(), atime="noatime", passthrough=False)
    assert variant.backend == "devfuse"
    assert isinstance(variant, Xloop)


def test_rows_of_metadata_are_those_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs/performance.md").read_text(encoding="utf-8")
    for row in all_rows().values():
        assert f"| `{row.name}` |" in text
    assert METADATA in text
