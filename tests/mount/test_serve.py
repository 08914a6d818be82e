# SPDX-License-Identifier: MIT
"""``xloop.serve()``: serving in the process that calls it."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

import xloop

# conftest.py cannot be imported by name in pytest's importlib mode; the fixtures bring it.
Spot = Any
Flags = Any

pytestmark = pytest.mark.mount


# -- serve() --------------------------------------------------------------------------------

SERVE = """
    import signal
    def ready():
        print("ready", flush=True)
    before = [signal.getsignal(n) for n in (1, 2, 10, 15)], os.umask(0o22), signal.set_wakeup_fd(-1)
    xloop.serve(xloop.Loopback(source, mountpoint=mnt), mnt, ready=ready)
    after = [signal.getsignal(n) for n in (1, 2, 10, 15)], os.umask(0o22), signal.set_wakeup_fd(-1)
    print(before[0] == after[0], after[1:], signal.pthread_sigmask(signal.SIG_BLOCK, []))
    """


@pytest.mark.parametrize("end", ["umount", signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_blocks_until_the_end_and_gives_everything_back(
    end: str | signal.Signals, spot: Spot
) -> None:
    server = spot.program(SERVE)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    assert (spot.mnt / "file").read_text() == "content\n"
    assert spot.mounted().source == str(spot.source)
    if isinstance(end, str):
        xloop.umount(spot.mnt)
    else:
        server.send_signal(end)
    out, err = server.communicate(timeout=60)
    assert (out, err) == ("True (18, -1) set()\n", "")
    assert server.returncode == 0
    assert spot.alone()


def test_serve_wants_the_main_thread(spot: Spot) -> None:
    caught: list[xloop.MountError] = []

    def serve() -> None:
        try:
            xloop.serve(xloop.Loopback(str(spot.source)), spot.mnt)
        except xloop.MountError as exc:
            caught.append(exc)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert "outside of the main thread" in caught[0].why
    assert "xloop.mount()" in caught[0].fix


def test_serve_unmounts_when_ready_raises(spot: Spot) -> None:
    text = """
        def ready():
            raise LookupError("what now")
        try:
            xloop.serve(xloop.Loopback(source), mnt, ready=ready)
        except LookupError as exc:
            print(exc)
        """
    out, err = spot.program(text).communicate(timeout=60)
    assert (out, err) == ("what now\n", "")
    assert spot.alone()


def test_serve_raises_what_ends_the_session(spot: Spot, flags: Flags) -> None:
    text = """
        try:
            xloop.serve(xloop.Loopback(source), mnt, backend="raising-later")
        except RuntimeError as exc:
            print(exc)
        """
    server = spot.program(text)
    assert flags.reached("raise")
    flags.set("raise")
    out, _ = server.communicate(timeout=60)
    assert out == "out of luck\n"
    assert spot.alone()


def test_serve_may_be_called_again(spot: Spot) -> None:
    text = """
        import gc, signal, threading
        for _ in range(3):
            xloop.serve(
                xloop.Loopback(source), mnt, ready=lambda: os.kill(os.getpid(), signal.SIGTERM)
            )
            while threading.active_count() > 1:
                time.sleep(0.01)
            gc.collect()
            print(len(os.listdir("/proc/self/fd")), os.path.ismount(mnt))
        """
    out, err = spot.program(text).communicate(timeout=60)
    lines = out.splitlines()
    assert len(lines) == 3
    assert len(set(lines)) == 1  # not one descriptor more each time
    assert lines[0].endswith("False")
    assert err == ""


def test_serve_names_what_is_wrong_with_the_mountpoint(spot: Spot) -> None:
    with pytest.raises(xloop.MountError, match="does not exist"):
        xloop.serve(xloop.Loopback(str(spot.source)), spot.top / "missing")
