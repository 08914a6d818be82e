# SPDX-License-Identifier: MIT
"""The workflow files, which nobody here can run: linted by three programs, and held against ci/."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sorted(path for path in (ROOT / "ci").iterdir() if path.suffix in (".sh", ".ps1"))
#: name: arguments before the files.  Of the extra "dev".
LINTERS = {
    "actionlint": ["-no-color"],
    "zizmor": ["--offline", "--quiet", "--no-progress"],
    "check-jsonschema": ["--builtin-schema", "vendor.github-workflows"],
}


def test_there_are_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("linter", LINTERS)
def test_a_linter_finds_nothing(linter: str) -> None:
    beside = Path(sys.executable).parent
    program = shutil.which(linter, path=str(beside)) or shutil.which(linter)
    if program is None:
        pytest.skip(f"{linter} is not installed: pip install 'xloop[dev]'")
    done = subprocess.run(
        [program, *LINTERS[linter], *map(str, WORKFLOWS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit_and_say_their_version(path: Path) -> None:
    uses = re.findall(r"uses: (.*)", path.read_text(encoding="ascii"))
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}  # v[\d.]+", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_job_does_can_be_done_by_hand(path: Path) -> None:
    commands = re.findall(r"(?:^| )run: (.*)", path.read_text(encoding="ascii"), re.MULTILINE)
    assert commands
    for command in commands:
        found = re.fullmatch(r"(?:bash |sh |\./)(ci/[\w.-]+)(?: \"\$\w+\")?", command)
        assert found, f"no script of ci/: {command}"
        assert (ROOT / found[1]).exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_called_by_a_workflow(script: Path) -> None:
    called = "\n".join(path.read_text(encoding="ascii") for path in WORKFLOWS)
    assert f"ci/{script.name}" in called
    text = script.read_bytes().decode("ascii")
    assert "SPDX-License-Identifier: MIT" in "\n".join(text.split("\n")[:2])


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.suffix == ".sh"], ids=lambda s: s.name)
def test_a_script_is_one_that_its_shell_can_read(script: Path) -> None:
    shell = script.read_text(encoding="ascii").split("\n")[0].rpartition("/")[2].rpartition(" ")[2]
    subprocess.run([shell, "-n", str(script)], check=True)


@pytest.mark.parametrize(
    "script",
    [s for s in SCRIPTS if s.name not in ("linux.sh", "windows-under-wine.sh")],
    ids=lambda s: s.name,
)
def test_the_tests_that_a_script_names_are_there(script: Path) -> None:
    text = script.read_text(encoding="ascii")
    for path in re.findall(r"tests/[\w./]+(?![\w.$]|/)", text):
        if not path.endswith("test_"):  # and then the name of a part
            assert (ROOT / path.rstrip(".")).exists(), path
    for part in re.findall(r"(?:for part in|\$part in) ([\w ,']+)", text):
        for name in re.findall(r"\w+", part):
            assert (ROOT / f"tests/unit/test_{name}.py").exists(), name
