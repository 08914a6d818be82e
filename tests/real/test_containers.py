# SPDX-License-Identifier: MIT
"""docs/containers.md, command by command: each prints what the page says it does.

A word after ``console`` says where a block holds: ``root`` and ``rootless``; ``shared``, where mounts are
passed on; ``bundle``, beside a config.json.  Root's run is in a mount namespace of its own, in which
mounts are shared as on a host with systemd.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import xloop
from real.support import ROOT, clean_environment, need, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "containers.md"

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]

#: What the engine must know to run in any place that these tests run in: without systemd, a network, images.
ENGINE = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[containers]
netns = "none"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""

STORAGE = """
[storage]
driver = "vfs"
graphroot = "{top}/store"
runroot = "{runtime}/store"
"""


#: What is said of a machine whose mounts are private: that podman keeps its own copy of them.
WARNING = re.compile("level=warning .* is not a shared mount|but still served by process")


@dataclass(frozen=True)
class Block:
    """A block of the page."""

    where: str
    text: str

    def steps(self) -> list[tuple[str, str]]:
        """Return each command and what it prints."""
        found: list[tuple[str, str]] = []
        for line in self.text.splitlines(keepends=True):
            if line.startswith(("$ ", "# ")):
                found.append((line[2:], ""))
            else:
                command, printed = found.pop()
                found.append((command, printed + line))
        return found


def blocks() -> list[Block]:
    found = re.findall(
        r"^```console *(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S
    )
    return [Block(where, text) for where, text in found]


SETUP, *EXAMPLES = blocks()


class Box:
    """A directory with the page's container in it, and an environment that leaves nothing anywhere else."""

    def __init__(self, top: Path, runtime: Path) -> None:
        self.top = top
        (top / "home").mkdir(mode=0o700)
        (top / "containers.conf").write_text(ENGINE)
        self.env = clean_environment(
            HOME=str(top / "home"),
            XDG_RUNTIME_DIR=str(runtime),
            CONTAINERS_CONF=str(top / "containers.conf"),
        )
        if ROOT:
            # An ordinary user's is below HOME.
            (top / "storage.conf").write_text(STORAGE.format(top=top, runtime=runtime))
            self.env["CONTAINERS_STORAGE_CONF"] = str(top / "storage.conf")
        scripts = Path(sys.executable).parent
        self.env["PATH"] = f"{scripts}:{self.env['PATH']}"

    def run(self, command: str) -> str:
        """Run *command* as a shell does, and return what is printed."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.top,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        lines = done.stdout.splitlines(keepends=True)
        return "".join(line for line in lines if not WARNING.search(line))

    def do(self, block: Block) -> None:
        for command, printed in block.steps():
            said = self.run(command.replace("IMAGE", self.image()))
            assert said == printed, f"$ {command}"

    def image(self) -> str:
        """Return the options that put a Python and this xloop into a container: the host's own."""
        root = self.top / "python"
        if not root.exists():
            for name in ("usr", "src", "mnt", "dev", "proc", "sys", "tmp", "run", "etc"):
                (root / name).mkdir(parents=True)
            for name in ("bin", "sbin", "lib", "lib64"):
                (root / name).symlink_to(f"usr/{name}")
        shown = {"/usr", sys.prefix, sys.base_prefix, str(Path(xloop.__file__).parents[1])}
        shown |= {path for path in sys.path if path.endswith("/backends")}
        shown |= {str(Path(sys.executable).resolve().parents[1])}
        outermost = [p for p in shown if not any(p.startswith(f"{q}/") for q in shown)]
        volumes = [f"--volume={path}:{path}:ro" for path in sorted(outermost)]
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        return shlex.join([f"--env=PATH={path}", *volumes, "--rootfs", str(root)])

    def close(self) -> None:
        """End what podman keeps running, and give back what is other users' by now."""
        self.run("podman rm -f -t 0 --all; podman unshare rm -rf home/.local")
        self.run("podman system migrate")


@pytest.fixture
def own_namespace() -> Iterator[None]:
    """Root: a mount namespace in which mounts are passed on, as systemd has them."""
    if not ROOT:
        yield
        return
    libc = ctypes.CDLL(None)
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    # CLONE_NEWNS; MS_REC | MS_PRIVATE, so that nothing gets out; MS_REC | MS_SHARED
    assert libc.unshare(0x20000) == 0
    try:
        assert libc.mount(b"none", b"/", None, ctypes.c_ulong(1 << 14 | 1 << 18), None) == 0
        assert libc.mount(b"none", b"/", None, ctypes.c_ulong(1 << 14 | 1 << 20), None) == 0
        yield
    finally:
        assert libc.setns(before, 0) == 0
        os.close(before)


@pytest.fixture
def box(work: Path, own_namespace: None) -> Iterator[Box]:
    need("busybox")
    if b"/ld-linux" in Path(str(shutil.which("busybox"))).read_bytes():
        pytest.skip("busybox is not linked statically: install busybox-static")
    # Short: podman puts sockets there, and their paths must not be longer than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="xl", dir="/tmp") as runtime:
        box = Box(work, Path(runtime))
        box.do(SETUP)
        try:
            yield box
        finally:
            box.close()
            wait_until(lambda: not servers(runtime), "a server is left")


def servers(runtime: str) -> list[str]:
    """Return the processes whose environment is the box's."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"XDG_RUNTIME_DIR={runtime}\0".encode() in (proc / "environ").read_bytes():
                found.append(os.fsdecode((proc / "cmdline").read_bytes()))
    return found


@pytest.fixture
def podman(box: Box) -> Box:
    """The box, where podman can run it."""
    need("podman", "runc")
    if not ROOT:
        need("newuidmap")
    said = box.run('podman run --rm --rootfs "$PWD/box" cat /bin/no-such-file')
    if said != "cat: can't open '/bin/no-such-file': No such file or directory\n":
        pytest.skip(f"podman cannot run here: {said}")
    if not ROOT:
        # It keeps a mount namespace, and has to begin with the mount that the test makes.
        box.run("podman system migrate")
    return box


def shares_mounts() -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return any(
            line.split()[4] == "/" and " shared:" in line.partition(" - ")[0] for line in table
        )


@pytest.mark.parametrize(
    "block", [b for b in EXAMPLES if b.where != "bundle"], ids=lambda b: b.where
)
def test_the_page_prints_what_happens(block: Block, podman: Box) -> None:
    if block.where == ("rootless" if ROOT else "root"):
        pytest.skip(f"holds {'for ordinary users' if ROOT else 'for root'} only")
    if block.where == "shared" and not shares_mounts():
        pytest.skip("the mounts of this machine are private, and only root may change that")
    podman.do(block)


def test_a_bundle_as_the_page_has_it(box: Box) -> None:
    need("runc")
    (mount,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    (block,) = (block for block in EXAMPLES if block.where == "bundle")
    box.run("runc spec" if ROOT else "runc spec --rootless")
    file = box.top / "config.json"
    config = json.loads(file.read_text())
    config["root"]["path"] = "box"
    config["process"].update(terminal=False, args=["cat", "/data/file"])
    config["mounts"].append(json.loads(mount))
    file.write_text(json.dumps(config))
    box.do(block)


def test_every_block_is_run() -> None:
    text = PAGE.read_text()
    assert text.count("\n```console") == len(EXAMPLES) + 1
    assert set(re.findall(r"^```(\w+)", text, re.M)) == {"console", "json"}
    assert {block.where for block in EXAMPLES} == {"", "root", "rootless", "shared", "bundle"}
