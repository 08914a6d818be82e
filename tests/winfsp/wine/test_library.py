# SPDX-License-Identifier: MIT
"""Where WinFsp's library is looked for, and what is said where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
import winreg
from collections.abc import Iterator
from pathlib import Path

import pytest

from xloop_backends.winfsp import Winfsp, library

VIEW = winreg.KEY_WOW64_32KEY
KEY = r"SOFTWARE\WinFsp"


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the registry says WinFsp is installed in; there is nothing in it."""
    monkeypatch.delenv("FUSE_LIBRARY_PATH")
    try:
        winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, KEY, 0, winreg.KEY_READ | VIEW).Close()
        pytest.skip("WinFsp is installed here: its registration is left alone")
    except FileNotFoundError:
        pass
    access = winreg.KEY_WRITE | VIEW
    with winreg.CreateKeyEx(winreg.HKEY_LOCAL_MACHINE, KEY, 0, access) as key:
        winreg.SetValueEx(key, "InstallDir", 0, winreg.REG_SZ, f"{tmp_path}\\")
    yield tmp_path
    winreg.DeleteKeyEx(winreg.HKEY_LOCAL_MACHINE, KEY, VIEW, 0)


def test_the_library_is_where_the_registry_says(registered: Path) -> None:
    assert library.find() is None, "there is no such file"
    (registered / "bin").mkdir()
    name = "winfsp-x64.dll" if sys.maxsize > 2**32 else "winfsp-x86.dll"
    (registered / "bin" / name).touch()
    found = library.find()
    assert found is not None
    assert os.path.samefile(found, registered / "bin" / name)


def test_a_library_that_is_none_is_told(registered: Path) -> None:
    (registered / "bin").mkdir()
    name = "winfsp-x64.dll" if sys.maxsize > 2**32 else "winfsp-x86.dll"
    (registered / "bin" / name).write_bytes(b"no library")
    # In a process of its own: this one has loaded the stand-in already.
    text = (
        "import sys, xloop, xloop_backends.winfsp as w\n"
        "try: w.Winfsp().mount(xloop.Operations(), 'X:', xloop.MountOptions())\n"
        "except xloop.BackendUnavailable as exc: print(exc.why)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=50)
    assert done.stdout.startswith("WinFsp's library cannot be loaded"), done.stderr


def test_without_winfsp_a_mount_says_how_to_get_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSE_LIBRARY_PATH")
    if library.find() is not None:
        pytest.skip("WinFsp is installed here")
    state = Winfsp().probe()
    assert (state.ok, state.why) == (False, "WinFsp is not installed")
    command = [sys.executable, "-m", "xloop", "mount", source, tmp_path / "point"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert "xloop: WinFsp is not installed" in done.stderr.replace(
        "backend 'winfsp' cannot mount here: ", ""
    )
    assert "winget install WinFsp.WinFsp" in done.stderr


def test_loading_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.environ["FUSE_LIBRARY_PATH"]
    loaded = library.load()
    assert (loaded.path, loaded.version()) == (path, 28)
    assert os.environ["FUSE_LIBRARY_PATH"] == path
