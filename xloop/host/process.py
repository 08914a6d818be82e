# SPDX-License-Identifier: MIT
"""Processes and signals, as far as systems differ in them.

Owns the calls: fork, sessions, signal masks, waiting for a process that is not ours.  Does not
own when a server process is made or told to end: that is :mod:`xloop.serving` and its callers.
What a system lacks raises OSError(EOPNOTSUPP).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING or sys.platform == "win32":  # elsewhere `xloop mount` needs neither of them here
    import socket
    import subprocess

__all__ = [
    "CAN_FORK",
    "CAN_GO_ON_AS_FORK",
    "DETACHED",
    "HANGUP",
    "STATUS",
    "TERMINATING",
    "blocked",
    "close_others",
    "enter_mounts",
    "fork",
    "give",
    "has_terminal",
    "hold",
    "in_foreground",
    "interpreter",
    "is_root",
    "keep_standard_descriptors",
    "kill",
    "leave_terminal",
    "overheard",
    "receive_descriptor",
    "restore_signals",
    "send_descriptor",
    "servers_of",
    "silence",
    "start_aside",
    "taken",
    "terminate",
    "unblock",
    "unblocked",
    "usage",
    "user",
    "user_name",
    "users_of",
    "wait",
    "watch",
]

#: The signals by which people and machines ask a server to end.
TERMINATING: frozenset[signal.Signals]
#: The one of them that a server in the background takes for "open your log again"; 0 where there is none.
HANGUP: int
#: The signal that asks a server for its status; none on Windows.
STATUS: frozenset[signal.Signals]
if sys.platform == "win32":
    TERMINATING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGBREAK})
    HANGUP = 0
    STATUS = frozenset()
else:
    TERMINATING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    HANGUP = signal.SIGHUP
    STATUS = frozenset({signal.SIGUSR1})
#: Whether fork(2) is there, and a child that is executed can be given descriptors by their numbers.
CAN_FORK = sys.platform != "win32"

#: Whether a fork may go on without executing anything.  Not on macOS: Python is linked with CoreFoundation
#: there, which ends a fork that uses it, and macFUSE's library does.
CAN_GO_ON_AS_FORK = sys.platform not in ("win32", "darwin")

#: subprocess's creationflags for a server that no console, and so no Ctrl-C, belongs to.
DETACHED: int
if sys.platform == "win32":
    DETACHED = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
else:
    DETACHED = 0


def interpreter() -> str:
    """Return the Python interpreter to start a server with."""
    # In a virtual environment on Windows sys.executable is a program that starts another one, whose
    # process is not our child.  What the environment adds is told to the server anyway (sys.path).
    return sys.executable if CAN_FORK else getattr(sys, "_base_executable", sys.executable)


def is_root() -> bool:
    """Tell whether this process acts as user 0.  There is none on Windows."""
    return sys.platform != "win32" and os.geteuid() == 0


def give(sock: socket.socket, pid: int) -> bytes:
    """Return what the process *pid*, a child that cannot inherit, needs in order to take *sock*."""
    if sys.platform == "win32":
        return sock.share(pid)
    raise _unsupported("sharing a socket")


def taken(stream: BinaryIO) -> socket.socket:
    """Return the socket that this process was given: *stream* itself, or told by its first words."""
    if sys.platform == "win32":
        size = int.from_bytes(stream.read(4), "little")
        return socket.fromshare(stream.read(size))
    fd = stream.fileno()
    os.set_inheritable(fd, False)  # a mount helper must not hold the line
    from socket import socket as made  # here: who forks needs it elsewhere only

    return made(fileno=fd)


def send_descriptor(sock: socket.socket, descriptor: int) -> None:
    """Give the process at the other end of *sock* a copy of *descriptor*."""
    if sys.platform != "win32":
        from socket import send_fds

        send_fds(sock, [b"\0"], [descriptor])
        return
    raise _unsupported("handing over a descriptor")


def receive_descriptor(sock: socket.socket) -> int | None:
    """Wait for what send_descriptor() sends; None: the other end is closed."""
    if sys.platform != "win32":
        from socket import recv_fds

        _, descriptors, _, _ = recv_fds(sock, 1, 1)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            return descriptor
        return None
    raise _unsupported("handing over a descriptor")


def restore_signals() -> None:
    """Give SIGPIPE and SIGXFSZ, which Python ignores, their meaning back: for what is executed next."""
    if sys.platform != "win32":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def terminate(child: subprocess.Popen[bytes], number: int) -> None:
    """Send signal *number* to *child*; on Windows, where there are none, end it."""
    if sys.platform == "win32":
        child.terminate()
    else:
        child.send_signal(number)


def kill(pid: int) -> None:
    """End the process *pid*, which may be anybody's and do anything, at once."""
    os.kill(pid, 9)  # SIGKILL has no name on Windows, where any number but two ends a process


def _unsupported(what: str) -> OSError:
    return OSError(errno.EOPNOTSUPP, f"{what} is not supported here")


@contextlib.contextmanager
def blocked(signals: frozenset[signal.Signals] | None = None) -> Iterator[None]:
    """Hold *signals* back from this thread, and from threads and processes started meanwhile.

    By default all that a server listens to.
    """
    if sys.platform == "win32":
        yield  # there signals never reach any thread but the main one
    else:
        if signals is None:
            signals = TERMINATING | STATUS
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hold(signals: frozenset[signal.Signals]) -> None:
    """Hold *signals* back from now on, and from what is forked or executed."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)


@contextlib.contextmanager
def unblocked(signals: frozenset[signal.Signals]) -> Iterator[None]:
    """Let *signals* through to this thread meanwhile."""
    if sys.platform == "win32":
        yield
    else:
        before = signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock() -> None:
    """Let the terminating signals through, whoever started this process with them blocked."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATING)


def fork() -> int:
    """fork(2).  To be called while this process has no other thread."""
    if sys.platform == "win32":
        raise _unsupported("a server in the background")
    return os.fork()


def leave_terminal() -> None:
    """Make this process the first of a session without a terminal: no key press signals it."""
    if sys.platform == "win32":
        raise _unsupported("a server in the background")
    os.setsid()


def has_terminal() -> bool:
    """Tell whether this process has a controlling terminal, whose end it is told by a signal."""
    if sys.platform == "win32":
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def in_foreground(terminal: int) -> bool:
    """Tell whether what this process writes to *terminal* disturbs nobody whom a shell runs there now."""
    if sys.platform == "win32":
        return True
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # it is the terminal of no session, or of another one
        return True


def wait(pid: int, patience: float | None = None) -> int | None:
    """Wait for the child *pid*: its exit status, negative for a signal; None: *patience* ran out."""
    if sys.platform == "win32":
        raise _unsupported("a server in the background")
    deadline = None if patience is None else time.monotonic() + patience
    while True:
        try:
            found, status = os.waitpid(pid, 0 if deadline is None else os.WNOHANG)
        except ChildProcessError:
            return 0  # who started us has SIGCHLD ignored: the kernel keeps no status then
        if found:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(0.01)


def keep_standard_descriptors() -> None:
    """Open what of the three standard descriptors is closed.

    Else the next file to be opened gets the number, and is written to as if it were stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def close_others(keep: int) -> None:
    """Close every descriptor but the standard three and *keep*."""
    for number in _others():
        if number != keep:
            with contextlib.suppress(OSError):  # the descriptor that listdir() itself used
                os.close(number)


def _others() -> list[int]:
    """Return the descriptors that are open, or may be, but the standard three."""
    # Not all that may be: with a limit of a billion open files (Docker) closing them takes
    # minutes where close_range(2) is missing.
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except (OSError, ValueError):
        numbers = list(range(3, 4096))
    return [number for number in numbers if number > 2]


def start_aside(words: list[str], stdin: int) -> int:
    """Execute *words* with nothing open but *stdin*, in a session of its own, deaf to signals; its pid.

    The working directory stays this process's.  From any thread, whatever the others do.
    """
    if sys.platform == "win32":
        raise _unsupported("a process aside")
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    for number in _others():
        with contextlib.suppress(OSError):
            if os.get_inheritable(number):
                actions.append((os.POSIX_SPAWN_CLOSE, number))
    return os.posix_spawn(
        words[0],
        words,
        os.environ,
        file_actions=actions,
        setsid=True,
        setsigmask=signal.valid_signals(),
    )


def enter_mounts(namespace: str) -> None:
    """Have this process see the mounts of the mount namespace *namespace*, the path of its file.

    The process must have one thread, and its root and working directory become those of the namespace.
    """
    if sys.platform != "linux":
        raise _unsupported("a mount namespace")
    import ctypes  # here: mount -N is rare.  os.setns() comes with Python 3.12

    clone_newns = 0x20000  # linux/sched.h
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, clone_newns):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)
    finally:
        os.close(fd)


def silence() -> None:
    """Point the three standard descriptors at nothing, so that nobody waits for their end."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    if null > 2:
        os.close(null)


def user() -> int:
    """Return the user that this process acts as; 0 on Windows, where users have no numbers."""
    if sys.platform == "win32":
        return 0
    return os.geteuid()


def user_name(number: int) -> str | None:
    """Return the name of a user; None: there is none."""
    if sys.platform == "win32":
        return None
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return None


def usage() -> dict[str, int]:
    """Return what this process has: threads, descriptors and their limit, bytes of memory.

    As far as the system tells.
    """
    found = {"threads": threading.active_count()}
    if sys.platform != "win32":
        import resource

        found["descriptors"] = len(_listing("/dev/fd"))
        found["descriptor limit"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if sys.platform == "linux":
        # proc(5): the second field is the resident set size, in pages.
        with (
            contextlib.suppress(OSError, ValueError, IndexError),
            open("/proc/self/statm", encoding="ascii") as statm,
        ):
            found["bytes of memory"] = int(statm.read().split()[1]) * resource.getpagesize()
    return found


def watch(pid: int) -> int | None:
    """Return a descriptor that becomes readable when process *pid* ends; None where there is none."""
    if sys.platform == "linux":
        try:
            return os.pidfd_open(pid)
        except OSError:  # an old kernel, a sandbox that forbids it, or the process is gone
            return None
    return None


def users_of(path: str) -> list[tuple[int, str, str]]:
    """Return (pid, program, what it uses) of processes that keep the mount at *path* busy.

    Only those that this user may look at.  Reads links in /proc and follows none, so that it
    cannot hang on a server that does not answer.
    """
    below = path.rstrip("/") + "/"
    users = []
    for name in _listing("/proc"):
        if not name.isdecimal():
            continue
        used = _used_by(f"/proc/{name}", path, below)
        if used:
            users.append((int(name), _program(name), used))
    return users


def servers_of(connection: int) -> list[int]:
    """Return the processes that hold a connection to the kernel's FUSE: minor number of its st_dev.

    Only those that this user may look at, and none where the kernel does not tell.
    """
    told = f"fuse_connection:\t{connection}\n"
    return [int(name) for name in _listing("/proc") if name.isdecimal() and _holds(name, told)]


def _holds(pid: str, told: str) -> bool:
    for fd in _listing(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}") != "/dev/fuse":
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii", errors="replace") as info:
                if told in info.read():
                    return True
        except OSError:  # it has ended, or is somebody else's
            continue
    return False


#: How many of the files of one process are named.
_FILES_NAMED = 3


def _used_by(proc: str, path: str, below: str) -> str:
    used: dict[str, str] = {}  # as a set that knows the order: a file may be open many times
    for link in ["root", *(f"fd/{fd}" for fd in _listing(f"{proc}/fd")), "cwd"]:
        try:
            target = os.readlink(f"{proc}/{link}")
        except OSError:  # it has ended, or is somebody else's
            continue
        if target == path or target.startswith(below):
            used.setdefault(target, f"working directory {target}" if link == "cwd" else target)
    try:
        with open(f"{proc}/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                target = line[line.find("/") :].rstrip("\n") if "/" in line else ""
                if target.startswith(below):
                    used.setdefault(target, f"{target} mapped")
    except OSError:
        pass
    named = list(used.values())[:_FILES_NAMED]
    if len(used) > len(named):
        named.append(f"{len(used) - len(named)} more")
    return ", ".join(named)


def _listing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _program(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return "?"


_stderr_lock = threading.Lock()


def overheard(call: Callable[[], bool]) -> tuple[bool, str]:
    """Return the outcome of *call* and what was written to standard error meanwhile.

    For libraries and the helpers that they run, which print why they failed.  If all went well the
    words are passed on to where they were meant for: other threads may have written them.
    """
    if sys.platform == "win32":
        raise _unsupported("listening to standard error")
    import tempfile  # here: only some backends need it

    with _stderr_lock:
        if sys.stderr is not None:
            sys.stderr.flush()
        kept = os.dup(2)
        # A file and no pipe: a helper that lives on, and has more to say, would be killed by a broken one.
        with tempfile.TemporaryFile() as hearing:
            try:
                os.dup2(hearing.fileno(), 2)
                try:
                    done = call()
                finally:
                    os.dup2(kept, 2)
            finally:
                os.close(kept)
            hearing.seek(0)
            said = hearing.read()
    if done and said:
        os.write(2, said)
    return done, said.decode(errors="backslashreplace").strip()
