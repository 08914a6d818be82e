# SPDX-License-Identifier: MIT
"""Mounts over libfuse as they end, threads that wait meanwhile, and what is kept until then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import xloop
from libfuse.support import ROOT, each, mounted, run


@each
@pytest.mark.mount
def test_a_mount_that_is_cut_off_ends_whatever_it_is_doing(
    backend: str, places: tuple[str, str]
) -> None:
    done = run(
        """
        import errno, fcntl, os, subprocess, threading, time, xloop
        from xloop import registry
        from xloop.options import MountOptions
        name, source, mnt = sys.argv[1:]
        open(source + "/f", "w").close()
        session = registry.load(name).mount(xloop.Loopback(source), mnt, MountOptions())
        ready = threading.Event()
        thread = threading.Thread(target=session.serve, args=(ready.set,))
        thread.start()
        ready.wait(20)
        # One that holds a lock on the source, and one that waits for it through the mount.
        held = open(source + "/f", "r+")
        fcntl.flock(held, fcntl.LOCK_EX)
        program = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX)"
        waiter = subprocess.Popen([sys.executable, "-c", program, mnt + "/f"],
                                  stderr=subprocess.DEVNULL)
        while not session.status()["waiting locks"]:
            time.sleep(0.01)
        session.abort()
        thread.join(20)
        waiter.wait(20)
        print(thread.is_alive(), waiter.returncode != 0, os.path.ismount(mnt))
        """,
        backend,
        *places,
    )
    assert done.stdout == "False True False\n", done.stderr


@each
@pytest.mark.mount
def test_an_interrupt_that_overtakes_its_request_ends_the_wait(
    backend: str, places: tuple[str, str]
) -> None:
    """The thread that has read the request is not scheduled, another one reads the interrupt."""
    done = run(
        """
        import fcntl, os, signal, subprocess, threading, xloop
        from xloop import registry
        from xloop.options import MountOptions
        name, source, mnt = sys.argv[1:]
        SETLKW, INTERRUPT = 33, 36  # fuse_kernel.h
        open(source + "/f", "w").close()
        session = registry.load(name).mount(xloop.Loopback(source), mnt, MountOptions())
        begun, overtaken, process = threading.Event(), threading.Event(), session._lib.process
        def slowly(buffer):
            opcode = session._request.opcode
            if opcode == SETLKW:
                begun.set()
                overtaken.wait(20)
            process(buffer)
            if opcode == INTERRUPT:
                overtaken.set()
        session._lib.process = slowly
        ready = threading.Event()
        thread = threading.Thread(target=session.serve, args=(ready.set,))
        thread.start()
        ready.wait(20)
        held = open(source + "/f", "r+")
        fcntl.flock(held, fcntl.LOCK_EX)
        program = '''
        import ctypes, errno, signal, sys
        f, lib = open(sys.argv[1], "r+"), ctypes.CDLL(None, use_errno=True)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        print(lib.flock(f.fileno(), 2), errno.errorcode[ctypes.get_errno()], flush=True)
        '''
        import textwrap
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), mnt + "/f"],
                              stdout=subprocess.PIPE, text=True) as waiter:
            begun.wait(20)
            waiter.send_signal(signal.SIGUSR1)
            try:
                print(waiter.communicate(timeout=10)[0], end="")
            except subprocess.TimeoutExpired:
                print("it waits for ever")
                fcntl.flock(held, fcntl.LOCK_UN)
        held.close()
        session.unmount()
        thread.join(20)
        print(thread.is_alive())
        """,
        backend,
        *places,
    )
    assert done.stdout == "-1 EINTR\nFalse\n", done.stderr


@each
@pytest.mark.mount
@pytest.mark.skipif(not ROOT, reason="needs root: only root may cut off a mount")
def test_a_mount_that_others_cut_off_ends_with_all_that_wait(
    backend: str, places: tuple[str, str]
) -> None:
    import fcntl

    Path(places[0], "f").touch()
    program = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX)"
    mount = xloop.mount(*places, backend=backend)

    def server_waits() -> bool:
        lines = Path("/proc/locks").read_text().splitlines()
        return any({"->", str(mount.pid)} <= set(line.split()) for line in lines)

    with open(places[0] + "/f", "r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, "-c", program, places[1] + "/f"], stderr=subprocess.DEVNULL
        ) as waiter:
            while not server_waits():
                assert waiter.poll() is None
            # Which aborts the connection, before it looks whether somebody uses the mount.
            subprocess.run(["umount", "-f", "-l", places[1]], check=True)
            assert waiter.wait(20) != 0
        mount.unmount()
        assert not Path(f"/proc/{mount.pid}").exists()


@each
@pytest.mark.mount
def test_more_may_wait_for_a_lock_than_there_are_threads(
    backend: str, places: tuple[str, str]
) -> None:
    import fcntl

    Path(places[0], "f").touch()
    program = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX)"
    with mounted(places, backend, max_threads=2) as (_, mnt):
        with open(mnt + "/f", "r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            waiters = [
                subprocess.Popen([sys.executable, "-c", program, mnt + "/f"]) for _ in range(6)
            ]
            for _ in range(50):
                assert os.listdir(mnt) == ["f"]
            fcntl.flock(held, fcntl.LOCK_UN)
        assert [waiter.wait(30) for waiter in waiters] == [0] * 6


@each
@pytest.mark.mount
def test_what_is_kept_beside_the_library_goes_with_its_nodes(
    backend: str, places: tuple[str, str]
) -> None:
    done = run(
        """
        import os, subprocess, threading, time, xloop
        from xloop import registry
        from xloop.options import MountOptions
        name, source, mnt = sys.argv[1:]
        loopback = xloop.Loopback(source)
        session = registry.load(name).mount(loopback, mnt, MountOptions())
        ready = threading.Event()
        thread = threading.Thread(target=session.serve, args=(ready.set,))
        thread.start()
        ready.wait(20)
        kept = session._callbacks
        # Not by way of cwd=: the child would go there while we, who serve it, wait for the child.
        script = "cd $0; exec 3>f 4>g; mkdir d; ln f d/h; echo x >d/i; stat * d/*; read line <d/i; rm g"
        with subprocess.Popen(["sh", "-c", script + "; echo ready; read x", mnt], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
            while user.stdout.readline() != "ready\\n":
                pass
            open_, types = len(loopback.handles), len(kept._types)
            names = len(session._view._kept)
            user.communicate("\\n")
        subprocess.run(["sh", "-c", "cd $0; stat d/h; rm -r f d", mnt], check=True,
                       stdout=subprocess.DEVNULL)
        def left():  # beside the root
            return (len(set(kept._types) - {1}), len(kept._opens), len(session._view._open),
                    len(session._view._kept), len(loopback.handles), len(loopback.nodes) - 1)
        deadline = time.monotonic() + 20
        while any(left()) and time.monotonic() < deadline:
            time.sleep(0.01)
        session.unmount()
        thread.join(20)
        print(open_ >= 2, types > 1, names, left(), len(os.listdir(source)))
        """,
        backend,
        *places,
    )
    assert done.stdout == "True True 1 (0, 0, 0, 0, 0, 0) 0\n", done.stdout + done.stderr
