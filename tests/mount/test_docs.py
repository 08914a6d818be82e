# SPDX-License-Identifier: MIT
"""The printed examples, run as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.mount


def block_with(page: str, words: str) -> str:
    """Return the one Python block of *page* in which *words* stand."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [block for block in blocks if words in block]
    assert len(found) == 1
    return found[0]


def wait_until_mounted(mountpoint: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while not os.path.ismount(mountpoint):
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "not mounted"
        time.sleep(0.02)


def test_the_file_system_of_ones_own_works_as_printed(tmp_path: Path) -> None:
    program = block_with("docs/library.md", "python greetings.py MOUNTPOINT")
    assert len(program.splitlines()) < 50
    script = tmp_path / "greetings.py"
    script.write_text(program)
    view = tmp_path / "view"
    view.mkdir()
    with subprocess.Popen([sys.executable, script, view]) as server:
        try:
            wait_until_mounted(view, server)
            assert sorted(os.listdir(view)) == ["bye.txt", "hello.txt"]
            assert {entry.name: entry.is_file() for entry in os.scandir(view)} == {
                "bye.txt": True,
                "hello.txt": True,
            }
            shown = subprocess.run(["cat", view / "hello.txt"], stdout=subprocess.PIPE, check=True)
            assert shown.stdout == b"Hello, world!\n"
            assert (view / "hello.txt").stat().st_size == len(shown.stdout)
            assert not (view / "missing").exists()
            with pytest.raises(OSError, match="Read-only file system"):
                (view / "new").touch()
        finally:
            subprocess.run([sys.executable, "-m", "xloop", "umount", view], check=True)
        assert server.wait(10) == 0


@pytest.mark.parametrize(
    ("page", "words"),
    [("README.md", "with xloop.mount("), ("docs/library.md", "with xloop.mount(")],
)
def test_the_example_of_a_mount_works_as_printed(tmp_path: Path, page: str, words: str) -> None:
    view = tmp_path / "view"
    view.mkdir()
    program = block_with(page, words).replace("/home/me/view", str(view))
    if "import xloop" not in program:
        program = "import xloop\n" + program
    program += f"\n    import os; assert os.listdir('/usr') == os.listdir({str(view)!r})\n"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert not os.path.ismount(view)
