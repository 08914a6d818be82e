# SPDX-License-Identifier: MIT
"""``xloop bench``, really run: all is measured, nothing is left, whatever ends it.

No test looks at a time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any

pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]

METADATA = (
    "create stat missing open open-write open-read chmod scandir-cold scandir-warm rename unlink".split()  # noqa: SIM905
)
DATA = ["write", "read", "random-read", "random-write"]
WORKLOADS = ["untar", "find-cold", "find-warm", "rm", "git-status", "compile"]

needs_bindfs = pytest.mark.skipif(not shutil.which("bindfs"), reason="bindfs is not installed")


@pytest.fixture(autouse=True)
def nothing_is_left(spot: Spot) -> Iterator[None]:
    yield
    for process in spot.started:
        assert process.poll() is not None
    assert spot.alone()
    assert sorted(os.listdir(spot.source)) == ["file", "inner"]


def bench(spot: Spot, *args: str, status: int = 0, **more: Any) -> Any:
    """Run the benchmark to its end; return its report."""
    done = spot.run("bench", spot.source, "--quick", "--json", *args, timeout=240, **more)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def check_complete(
    report: Any, rows: list[str], subjects: list[str], rounds: int, clients: int = 1
) -> None:
    """Check that all *rows* were measured on all *subjects*, and nothing else."""
    found = [row for row in report["results"] if row["clients"] == clients]
    assert [row["row"] for row in found] == rows
    for row in found:
        assert row["failures"] == {}
        assert list(row["subjects"]) == subjects
        for values in row["subjects"].values():
            assert len(values["rounds"]) == rounds
            assert all(value > 0 for value in values["rounds"])
            low, high = values["quartiles"]
            assert low <= values["median"] <= high
        assert list(row["ratios"]) == subjects[1:]
        for ratios in row["ratios"].values():
            assert len(ratios["native"]["rounds"]) == rounds


def test_operations_on_xloop_and_on_a_variant(spot: Spot) -> None:
    report = bench(
        spot, "--only", "metadata,data", "--rounds", "2", "--against", "none",
        "-o", "attr_timeout=3", "--variant", "served=-o nopassthrough --backend devfuse",
    )  # fmt: skip
    check_complete(report, METADATA + DATA, ["native", "xloop", "served"], rounds=2)
    assert report["subjects"][2]["options"] == "attr_timeout=3,nopassthrough"
    assert report["subjects"][1]["backend"] == "devfuse"
    (means,) = report["geometric_means"]
    assert means["rows"] == METADATA
    assert set(means["ratios"]) == {"xloop", "served"}
    assert report["source"]["path"] == str(spot.source)
    assert report["machine"]["cpus"] >= 1
    assert report["machine"]["load_after"] is not None


@needs_bindfs
def test_every_row_beside_another_program(spot: Spot) -> None:
    missing = [p for p in ("tar", "git", "gcc", "find", "rm") if shutil.which(p) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    report = bench(spot, "--rounds", "1", "--against", "bindfs")
    check_complete(report, METADATA + DATA + WORKLOADS, ["native", "xloop", "bindfs"], rounds=1)
    assert all(row["best_peer"] == "bindfs" for row in report["results"])
    assert all("bindfs" in row["ratios"]["xloop"] for row in report["results"])
    (means,) = report["geometric_means"]
    assert means["ratios"]["xloop"]["best_peer"] == means["ratios"]["xloop"]["bindfs"]
    assert report["subjects"][2]["version"].startswith("bindfs")
    assert report["skipped"] == {}


def test_many_clients_and_busy_processors(spot: Spot) -> None:
    report = bench(
        spot, "--clients", "1,3", "--only", "create,unlink,read,untar", "--rounds", "1",
        "--against", "none", "--busy",
    )  # fmt: skip
    check_complete(report, ["create", "unlink", "read", "untar"], ["native", "xloop"], 1)
    check_complete(report, ["create", "unlink", "read"], ["native", "xloop"], 1, clients=3)
    assert report["settings"]["busy"]
    assert [means["clients"] for means in report["geometric_means"]] == [1, 3]


def test_a_row_is_prepared_by_rows_that_are_not_shown(spot: Spot) -> None:
    report = bench(spot, "--only", "open-read,find-warm", "--rounds", "1", "--against", "none")
    check_complete(report, ["open-read", "find-warm"], ["native", "xloop"], rounds=1)


def test_the_table_and_no_bar_where_nobody_would_see_it(spot: Spot) -> None:
    done = spot.run(
        "bench", spot.source, "--quick", "--only", "chmod", "--rounds", "1", "--against", "none"
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "xloop:native" in done.stdout
    assert "chmod, us" in done.stdout


def test_a_bar_on_a_terminal(spot: Spot) -> None:
    master, terminal = os.openpty()
    try:
        spot_args = ("--quick", "--only", "chmod", "--rounds", "1", "--against", "none")
        done = spot.run(
            "bench", spot.source, *spot_args,
            capture_output=False, stdout=subprocess.PIPE, stderr=terminal,
        )  # fmt: skip
        assert done.returncode == 0
        os.close(terminal)
        terminal = -1
        assert b"100%" in os.read(master, 65536)
    finally:
        os.close(master)
        if terminal >= 0:
            os.close(terminal)


def test_a_program_is_skipped_where_it_is_missing(spot: Spot, tmp_path: Path) -> None:
    for name in ("fusermount3", "fusermount"):
        if found := shutil.which(name):
            (tmp_path / name).symlink_to(found)
    report = bench(
        spot, "--only", "compile,chmod", "--rounds", "1",
        env={**os.environ, "PATH": str(tmp_path)},
    )  # fmt: skip
    check_complete(report, ["chmod"], ["native", "xloop"], rounds=1)
    assert report["skipped"] == {"compile": "there is no gcc in the PATH"}


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_chart(spot: Spot, suffix: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    chart = tmp_path / f"chart.{suffix}"
    bench(
        spot, "--only", "chmod,unlink", "--clients", "1,2", "--rounds", "2", "--against", "none",
        "--chart", str(chart), env={**os.environ, "MPLCONFIGDIR": str(tmp_path)},
    )  # fmt: skip
    if suffix == "svg":
        assert ET.parse(chart).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    else:
        assert chart.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# -- other programs -----------------------------------------------------------------------------


@needs_bindfs
def test_a_program_that_goes_to_the_background(spot: Spot) -> None:
    mine = "mine=bindfs --no-allow-other --multithreaded {source} {mountpoint}"
    report = bench(spot, "--only", "chmod", "--rounds", "1", "--against", mine)
    check_complete(report, ["chmod"], ["native", "xloop", "mine"], rounds=1)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo it is not my day >&2; exit 3", "ended with status 3, and nothing is mounted"),
        ("echo it is not my day; exit 0", "ended with status 0, and nothing is mounted"),
    ],
)
def test_a_program_that_does_not_mount_is_left_out_in_its_own_words(
    script: str, why: str, spot: Spot
) -> None:
    mine = f"mine=sh -c '{script}' {{source}} {{mountpoint}}"
    report = bench(spot, "--only", "chmod", "--rounds", "1", "--against", mine)
    check_complete(report, ["chmod"], ["native", "xloop"], rounds=1)
    assert report["left_out"] == {"mine": f"mine: {why}: it is not my day"}


@needs_bindfs
def test_a_row_that_fails_on_a_program_is_reported_and_the_others_are_measured(spot: Spot) -> None:
    mine = "mine=bindfs -f --no-allow-other --rename-deny {source} {mountpoint}"
    report = bench(
        spot, "--only", "chmod,rename,unlink", "--rounds", "1", "--against", mine, status=1
    )
    chmod, rename, unlink = report["results"]
    assert "Permission" in rename["failures"]["mine"]
    assert set(rename["subjects"]) == {"native", "xloop"}
    assert rename["best_peer"] is None
    for row in (chmod, unlink):
        assert set(row["subjects"]) == {"native", "xloop", "mine"}
    (means,) = report["geometric_means"]
    assert means["ratios"]["mine"]["native"] is None


#: Has no descriptors left from the second round on.
EXHAUSTED = """
import errno, sys, xloop

class Exhausted(xloop.Loopback):
    def mkdir(self, caller, parent, name, *more):
        if name.startswith(b"metadata") and name.endswith(b"-2"):
            raise OSError(errno.EMFILE, "no more")
        return super().mkdir(caller, parent, name, *more)

xloop.serve(Exhausted(sys.argv[1]), sys.argv[2])
"""


def test_a_program_that_fails_half_way_does_not_cost_what_others_have_done(
    spot: Spot, tmp_path: Path
) -> None:
    script = tmp_path / "exhausted.py"
    script.write_text(EXHAUSTED)
    mine = f"mine={sys.executable} {script} {{source}} {{mountpoint}}"
    report = bench(
        spot, "--only", "chmod,rename,write", "--rounds", "3", "--against", mine, status=1
    )
    for row in report["results"]:
        measured = {name: len(values["rounds"]) for name, values in row["subjects"].items()}
        if row["group"] == "metadata":
            assert measured == {"native": 3, "xloop": 3}
            assert "Too many open files" in row["failures"]["mine"]
        else:
            assert measured == {"native": 3, "xloop": 3, "mine": 3}
            assert row["failures"] == {}


def test_rows_that_fail_on_xloop_fail_the_command(spot: Spot) -> None:
    done = spot.run(
        "bench", spot.source, "--quick", "-o", "ro", "--only", "chmod,write", "--against", "none"
    )
    assert done.returncode == 1
    assert "not all could be measured: chmod, write" in done.stderr
    assert "Traceback" not in done.stderr
    assert "chmod failed on xloop: OSError: [Errno 30] Read-only file system" in done.stdout


def test_xloop_that_cannot_mount_is_an_error(spot: Spot) -> None:
    done = spot.run(
        "bench", spot.source, "--only", "chmod", "--against", "none",
        "--variant", "served=--backend libfuse3 -o passthrough",
    )  # fmt: skip
    spot.refused(done, "passthrough")


def test_a_source_that_cannot_be_written_is_refused(spot: Spot) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    spot.source.chmod(0o555)
    try:
        spot.refused(spot.run("bench", spot.source), "may not be written by this user")
    finally:
        spot.source.chmod(0o755)


# -- the end ------------------------------------------------------------------------------------


def at_work(spot: Spot, mounts: int) -> Callable[[], bool]:
    """Return what tells whether rows are being done, and all is mounted."""

    def holds() -> bool:
        (top,) = spot.source.glob("xloop-bench-*")
        return len(spot.mounts_below()) == mounts and any((top / "source").iterdir())

    def answer() -> bool:
        with contextlib.suppress(ValueError, OSError):  # the directory is not there yet
            return holds()
        return False

    return answer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing(
    number: signal.Signals, spot: Spot, eventually: Any
) -> None:
    # Long enough to be interrupted: the whole tree.
    running = spot.start(
        "bench", spot.source, "--busy", "--against", "none", "--only", "untar,chmod"
    )
    assert eventually(at_work(spot, mounts=1))
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode not in (0, None)
    assert "Traceback" not in said


#: Serves what it is told, but never answers a mkdir: who waits for it cannot even be killed.
STUCK = """
import os, pathlib, sys, threading, time, xloop

class Stuck(xloop.Loopback):
    def mkdir(self, *args):
        pathlib.Path(sys.argv[3]).touch()
        threading.Event().wait()

if sys.argv[4] == "background" and os.fork():
    while not os.path.ismount(sys.argv[2]):
        time.sleep(0.01)
    os._exit(0)
xloop.serve(Stuck(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("where", ["foreground", "background"])
def test_a_mount_that_hangs_does_not_keep_it_from_ending(
    where: str, spot: Spot, eventually: Any, tmp_path: Path
) -> None:
    script, reached = tmp_path / "stuck.py", tmp_path / "reached"
    script.write_text(STUCK)
    stuck = f"stuck={sys.executable} {script} {{source}} {{mountpoint}} {reached} {where}"
    running = spot.start("bench", spot.source, "--quick", "--only", "chmod", "--against", stuck)
    assert eventually(reached.exists)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "Traceback" not in said
