# SPDX-License-Identifier: MIT
"""xloop can be imported on macOS and FreeBSD: nothing asks for what only Linux has.

A process takes itself for the other system: its os module lacks what that system's Python lacks, and its C
library has whatever it is asked for.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

#: What Python's modules have on Linux and not on the other system.
_LINUX_ALONE = {
    "os": (
        *("O_PATH", "O_TMPFILE", "O_NOATIME", "O_LARGEFILE", "O_RSYNC", "getxattr", "setxattr"),
        *("listxattr", "removexattr", "pidfd_open", "memfd_create", "eventfd", "splice"),
        *("copy_file_range", "getrandom", "sched_setaffinity", "RWF_NOWAIT"),
    ),
    "select": ("epoll",),
    "signal": (),
}
_MACOS_LACKS = {
    "os": ("O_DIRECT", "fdatasync", "posix_fallocate", "posix_fadvise"),
    "signal": ("SIGRTMAX",),
}

_PROGRAM = """
import ctypes, os, select, signal, subprocess, sys, pkgutil, importlib
sys.platform = PLATFORM
for module, names in LACKS.items():
    for name in names:
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)

class Library:
    def __init__(self, *args, **kw): pass
    def __getitem__(self, name):
        if name == "anything": raise AttributeError
        return Function()
    def __getattr__(self, name): return Function()

class Function:
    restype = argtypes = None
    def __call__(self, *args): raise NotImplementedError

ctypes.CDLL = Library
import xloop, xloop_backends
for name in xloop.__all__:
    getattr(xloop, name)
skipped = ("xloop.host.linux", "xloop.host.windows", "xloop_backends.devfuse",
           "xloop_backends.winfsp.session", "xloop.__main__")
for package in (xloop, xloop_backends):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.startswith(skipped):
            importlib.import_module(found.name)
from xloop import registry
from xloop.host import host
from xloop.host.base import Host
wanted = {name for name in vars(Host) if not name.startswith("_")} | set(Host.__annotations__)
missing = sorted(name for name in wanted if not hasattr(host, name))
print(registry.system(), *registry.bundled(), type(host).__name__, *missing)
"""


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("darwin", "darwin macfuse fuse-t DarwinHost"),
        ("freebsd14", "freebsd libfuse libfuse3 libfuse2 FreeBSDHost"),
    ],
)
def test_everything_can_be_imported(platform: str, expected: str) -> None:
    lacks = {module: list(names) for module, names in _LINUX_ALONE.items()}
    if platform == "darwin":
        for module, names in _MACOS_LACKS.items():
            lacks[module] += names
    program = f"PLATFORM, LACKS = {platform!r}, {lacks!r}\n{_PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected
