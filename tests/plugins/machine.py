# SPDX-License-Identifier: MIT
"""A machine of one's own, as far as mount(8) and systemd can tell: fixture `machine`.  Owns no test.

A mount namespace in which /etc/fstab, /sbin and /run can be written, and what is written is gone with it: /sbin
and /etc are directories of links to what is really there, /run is empty.  Needs root.

Programs, by the names that Debian's apt-get install wants: util-linux, fuse3 for mounts of other users, systemd
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from xloop import helpers
from xloop.host import mounttable
from xloop.host.mounttable import MountEntry

#: The user who mounts what root does not.
USER = "nobody"

_SET_UP = r"""
set -e
# Copies of mounts of other tests: their servers would not end as long as this lives.
umount --all --lazy --types fuse.xloop || true
mount -t tmpfs -o mode=755 run /run
mkdir /run/mount /run/aside
# over DIRECTORY: put a directory of links to its entries over it.
over() {
    mkdir "/run/aside$1"
    mount --bind "$1" "/run/aside$1"
    mount -t tmpfs -o mode=755 over "$1"
    find "/run/aside$1" -mindepth 1 -maxdepth 1 -exec ln -s -t "$1" {} +
}
mkdir -p /run/aside/usr
sbin=$(readlink -f /sbin)
over "$sbin"
over /etc
rm -f /etc/fstab
: >/etc/fstab
mknod -m 666 /run/fuse c 10 229
mount --bind /run/fuse /dev/fuse
"""


class Machine:
    """Where commands see a machine of their own."""

    def __init__(
        self,
        set_up: str = "",
        *,
        then: str = "echo ready; exec cat >/dev/null",
        before: Sequence[str] = (),
        unshare: Sequence[str] = (),
    ) -> None:
        """*set_up* is a part of a shell script, and *then* its end; *before* a command that runs it all,
        and *unshare* what there is to be of its own besides mounts.
        """
        words = ["unshare", "--mount", "--propagation", "private", *unshare, "--", "sh", "-c"]
        self.process = subprocess.Popen(
            [*before, *words, _SET_UP + set_up + then],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._inside: list[str] = []
        self._top = "/nowhere"

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Wait until it is set up, install xloop's helpers, and end it at the end."""
        try:
            assert self.process.stdout is not None
            assert self.process.stdout.readline() == "ready\n"
            self._inside = ["nsenter", "--target", str(self.pid()), *self.namespaces(), "--wdns=/"]
            done = self.xloop("install-helpers")
            assert done.returncode == 0, done.stderr
            yield self
        finally:
            self.end()

    @contextlib.contextmanager
    def works_below(self, top: Path) -> Iterator[None]:
        """Have a test mount below *top*, with an empty fstab; what it leaves there is taken away."""
        top.chmod(0o755)  # for other users too
        self._top = str(top)
        self.write("/etc/fstab", "")
        try:
            yield
        finally:
            for entry in reversed(self.mounted()):
                self.run("umount", "--lazy", entry.mountpoint)

    def pid(self) -> int:
        return self.process.pid

    def namespaces(self) -> list[str]:
        return ["--mount"]

    def run(self, *words: object, user: str | None = None, **more: Any) -> Any:
        """Run a command to its end."""
        become: list[str] = []
        if user is not None:
            become = ["setpriv", "--reuid", user, "--regid", "nogroup", "--clear-groups"]
        return subprocess.run(
            [*self._inside, *become, *map(str, words)],
            **{"text": True, "capture_output": True, "timeout": 60, **more},
        )

    def xloop(self, *words: object) -> Any:
        return self.run(sys.executable, "-m", "xloop", *words)

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        self.run("tee", path, input=text, check=True)

    def table(self) -> list[MountEntry]:
        return mounttable.parse(Path(f"/proc/{self.pid()}/mountinfo").read_bytes())

    def mounted(self) -> list[MountEntry]:
        """Return what is mounted below the directory of the test."""
        return [entry for entry in self.table() if entry.mountpoint.startswith(f"{self._top}/")]

    def options(self, entry: MountEntry) -> set[str]:
        """Return the options that the table shows of *entry*."""
        for line in Path(f"/proc/{self.pid()}/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if before.startswith(f"{entry.id} "):
                return {*before.split(" ")[5].split(","), *after.split(" ")[2].split(",")}
        raise AssertionError(f"{entry} is not mounted")

    def end(self) -> None:
        """End it."""
        self.stop()
        self.process.communicate()

    def stop(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdin = None


#: What is mounted over the machine of systemd: a proc of its own, in which it cannot set up the real machine.
_SYSTEMD_SET_UP = r"""
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs cgroup /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
rm -f /etc/systemd /etc/machine-id
mkdir -p /etc/systemd/system
: >/etc/machine-id
for unit in sysinit basic local-fs local-fs-pre remote-fs remote-fs-pre network network-online umount \
    shutdown sockets timers paths slices default; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$unit" >"/etc/systemd/system/$unit.target"
done
"""

#: Only our units: nothing of this machine is to be started.
_SYSTEMD = (
    "echo ready; exec env container=xloop-test "
    "SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/systemd/generator "
    "/lib/systemd/systemd --system --unit=default.target --show-status=no --log-target=null"
)


class SystemdMachine(Machine):
    """The same with a systemd of its own."""

    def __init__(self, group: Path) -> None:
        """*group*: a control group for it, of the unified hierarchy; made and removed here."""
        self._group = group
        group.mkdir()
        enter = ["sh", "-c", 'echo 0 >"$1" && shift && exec "$@"', "sh", f"{group}/cgroup.procs"]
        alone = ("--pid", "--fork", "--kill-child", "--cgroup", "--uts", "--ipc")
        super().__init__(_SYSTEMD_SET_UP, then=_SYSTEMD, before=enter, unshare=alone)

    def pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def namespaces(self) -> list[str]:
        return ["--mount", "--pid", "--cgroup", "--uts", "--ipc"]

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def stop(self) -> None:
        self.process.kill()  # and by that its first process, which takes all others with it
        self.process.wait()

    def end(self) -> None:
        super().end()
        deadline = time.monotonic() + 30
        while self._group.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # the last process is not quite gone
                for place, _, _ in os.walk(self._group, topdown=False):
                    os.rmdir(place)
            time.sleep(0.01)


def unified() -> Path | None:
    """Return where control groups can be made for a systemd; None where they cannot."""
    for entry in mounttable.read():
        if entry.fstype == "cgroup2" and os.access(entry.mountpoint, os.W_OK):
            return Path(entry.mountpoint)
    return None


def closed_to_others() -> str:
    """Return why other users cannot run the xloop that is tested; nothing if they can."""
    closed = helpers.out_of_reach()
    return f"other users may not enter {closed}, where xloop or its Python is" if closed else ""
