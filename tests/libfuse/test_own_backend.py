# SPDX-License-Identifier: MIT
"""The backend of docs/backends.md that comes from somebody else's distribution, installed and used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import Shell, commands, matches  # tests/plugins

from xloop import registry

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory as pip leaves it: the module, and the metadata with its entry point."""
    text = PAGE.read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (toml,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    name, value = re.findall(r'^(\w+) = "([\w.:]+)"$', toml, re.MULTILINE)[0]
    site = tmp_path / "site"
    info = site / "noted-1.dist-info"
    info.mkdir(parents=True)
    (site / code.splitlines()[0].removeprefix("# ")).write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noted\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {value}\n")
    return site


@pytest.fixture
def can_mount(pytestconfig: pytest.Config) -> None:
    state = registry.load("devfuse").probe()
    if not state.ok:
        if pytestconfig.getoption("--require-mount", default=False):
            pytest.fail(f"--require-mount: {state.why}")
        pytest.skip(state.why)


@pytest.mark.mount
@pytest.mark.usefixtures("can_mount")
def test_the_session_goes_as_it_is_printed(installed: Path, tmp_path: Path) -> None:
    for name in ("project", "view"):
        (tmp_path / name).mkdir()
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{installed}:{os.environ.get('PYTHONPATH', '')}",
    }
    shell = Shell(tmp_path, env)
    try:
        session = list(commands(PAGE, by="tests/libfuse/test_own_backend.py"))
        assert len(session) == 4
        for command in session:
            status, printed = shell.run(command.text)
            assert status == 0, printed
            assert matches(command.shown, printed), printed
    finally:
        shell.end()
        subprocess.run(["umount", "-l", tmp_path / "view"], stderr=subprocess.DEVNULL, check=False)


@pytest.mark.mount
@pytest.mark.usefixtures("can_mount")
def test_the_example_mounts(installed: Path, tmp_path: Path) -> None:
    source, mountpoint, notes = tmp_path / "source", tmp_path / "mnt", tmp_path / "notes"
    source.mkdir()
    mountpoint.mkdir()
    (source / "file").write_text("seen")
    program = (
        f"import sys; sys.path[:] = {[str(installed), *sys.path]!r}\n"
        "import pathlib, xloop\n"
        "with xloop.mount(*sys.argv[1:], backend='noted') as mount:\n"
        "    print(mount.backend, pathlib.Path(sys.argv[2], 'file').read_text())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, source, mountpoint],
        env={**os.environ, "NOTED": str(notes)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "noted seen\n", done.stderr
    assert notes.read_text() == f"{source} at {mountpoint}\n"


def test_without_the_distribution_there_is_no_such_backend() -> None:
    from xloop.errors import BackendUnavailable

    with pytest.raises(BackendUnavailable, match="there is no backend 'noted'"):
        registry.choose("noted")
