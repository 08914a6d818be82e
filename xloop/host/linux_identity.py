# SPDX-License-Identifier: MIT
"""Linux: who a thread is while it makes a system call.

Owns users, groups, capabilities, labels and the umask of one thread, as :class:`xloop.host.base.Host`
describes them.  Does not own the calls that are made meanwhile (:mod:`xloop.host.linux`, which
also offers these functions as its own).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from xloop.types import Caller

assert not TYPE_CHECKING or sys.platform == "linux"

__all__ = [
    "acting_as",
    "drop_fsetid",
    "is_self",
    "keeps_set_id",
    "masking",
    "may_act_as_others",
    "own_file_system_state",
    "restore_fsetid",
    "sees_trusted",
    "told",
    "without_fsetid",
]

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


class _ThreadState(threading.local):
    """What a thread has changed about itself."""

    #: The umask that this thread has set for itself; None: it shares the process's.
    umask: int | None = None
    #: Takes CAP_FSETID out of this thread's own capabilities, while it has those; None: it acts as
    #: somebody else, or is not known to have them.
    without_fsetid: _OwnWithoutFsetid | None = None


_thread = _ThreadState()

# The C library's setuid() family changes all threads of the process.  These change one, which is
# what the kernel offers: setfsuid() and setfsgid() are per thread in glibc and musl too, for
# setgroups() and capset() the system call itself is made.

_setfsuid = _libc.setfsuid
_setfsgid = _libc.setfsgid
_IS_64 = ctypes.sizeof(ctypes.c_void_p) == 8
_MACHINE = os.uname().machine
_SYS_SETGROUPS, _SYS_CAPGET, _SYS_CAPSET = {
    "x86_64": (116, 125, 126),
    "i686": (206, 184, 185),
    "armv7l": (206, 184, 185),
}.get(_MACHINE, (159, 90, 91))  # the generic table: aarch64, riscv64, loongarch64

_CAP_HEADER = struct.pack("=II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FSETID, _CAP_SETGID = 1, 2, 4, 6
_CAP_SYS_ADMIN, _CAP_MKNOD = 21, 27


def _capabilities() -> list[int]:
    """Return effective, permitted, inheritable of capabilities 0-31, then of the rest."""
    data = ctypes.create_string_buffer(24)
    if _syscall(_SYS_CAPGET, _CAP_HEADER, data):
        raise _fail()
    return list(struct.unpack("=6I", data.raw))


def _set_capabilities(sets: list[int]) -> None:
    if _syscall(_SYS_CAPSET, _CAP_HEADER, struct.pack("=6I", *sets)):
        raise _fail()


_uid, _gid = os.geteuid(), os.getegid()
_groups = tuple(os.getgroups())
_nothing: AbstractContextManager[object] = nullcontext()


def _refresh_identity() -> None:
    """Ask again who this process is: after a fork it may have become somebody else."""
    global _uid, _gid, _groups
    _uid, _gid, _groups = os.geteuid(), os.getegid(), tuple(os.getgroups())


def is_self(caller: Caller) -> bool:
    if caller.uid != _uid or caller.gid != _gid:
        if os.geteuid() == _uid and os.getegid() == _gid:
            return False
        _refresh_identity()
        return caller.uid == _uid and caller.gid == _gid
    return True


def may_act_as_others() -> bool:
    return os.geteuid() == 0


def _status_of(pid: int, field: str) -> str | None:
    """Return *field* of /proc/PID/status for a thread; None where that cannot be told."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith(field):
                    return line.partition(":")[2]
    except OSError:
        pass  # gone, or in another pid namespace
    return None


def _groups_of(pid: int) -> tuple[int, ...]:
    # None where it cannot be told: fewer rights are the safe answer.
    return tuple(int(group) for group in (_status_of(pid, "Groups") or "").split())


#: FUSE_INVALID_UIDGID: where idmapped mounts are allowed, only what creates tells who asks.
_UNTOLD = 0xFFFFFFFF
#: Owns nothing, and is in no group.
_STRANGER = 0xFFFFFFFE


def told(caller: Caller) -> Caller:
    if caller.uid != _UNTOLD:
        return (
            caller if caller.groups is not None else caller._replace(groups=_groups_of(caller.pid))
        )
    # "Uid:" and "Gid:" have four numbers: real, effective, saved, file system.
    uid, gid = (_status_of(caller.pid, field) for field in ("Uid:", "Gid:"))
    if uid is None or gid is None:
        return caller._replace(uid=_STRANGER, gid=_STRANGER, groups=())
    ids = int(uid.split()[3]), int(gid.split()[3])
    return caller._replace(uid=ids[0], gid=ids[1], groups=_groups_of(caller.pid))


def _in_our_user_namespace(pid: int) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/user"), os.stat("/proc/self/ns/user"))
    except OSError:
        return False


def _has(caller: Caller, capability: int) -> bool:
    if caller.uid not in (0, _UNTOLD):
        return False  # capabilities without being root are rare, and fewer rights the safe side
    # Who has made a user namespace has all capabilities, but only in there.
    if not _in_our_user_namespace(caller.pid):
        return False
    effective = _status_of(caller.pid, "CapEff")
    return effective is not None and bool(int(effective, 16) >> capability & 1)


def keeps_set_id(caller: Caller) -> bool:
    return _has(caller, _CAP_FSETID)


def sees_trusted(caller: Caller) -> bool:
    return _has(caller, _CAP_SYS_ADMIN)


def _set_groups(groups: tuple[int, ...]) -> None:
    array = (ctypes.c_uint32 * len(groups))(*groups)
    if _syscall(_SYS_SETGROUPS, len(groups), array):
        raise _fail()


#: What a caller's creating keeps of root's capabilities when the kernel has checked the rest.
_CREATING = 1 << _CAP_DAC_OVERRIDE | 1 << _CAP_DAC_READ_SEARCH | 1 << _CAP_MKNOD


class _ActingAs:
    __slots__ = ("caller", "capabilities", "checked", "own")

    def __init__(self, caller: Caller, checked: bool) -> None:
        self.caller = caller
        self.checked = checked
        self.capabilities: list[int] | None = None

    def __enter__(self) -> None:
        self.own = _thread.without_fsetid
        if self.own is not None:
            # setfsuid() to 0 gives back what is permitted, CAP_FSETID among it, and nobody would know.
            self.own.put_back()
        _thread.without_fsetid = None
        uid, gid, pid, groups, label = self.caller
        if label is not None:
            _set_create_label(label)
        try:
            # Group before user: afterwards this thread may no longer change it.
            if groups is None:
                groups = () if self.checked else _groups_of(pid)
            _set_groups(groups)
            _setfsgid(gid)
            if uid != 0:
                _setfsuid(uid)
                # The kernel takes out of the effective set what overrides permissions when the
                # file system user id leaves 0.  The rest goes here: root's reserve of blocks and
                # trusted attributes are not the caller's either.
                held = self.capabilities = _capabilities()
                keep = _CREATING & held[1] if self.checked else 0
                _set_capabilities([keep, held[1], held[2], 0, held[4], held[5]])
            # Both functions report no error; asking with an impossible id tells what holds.
            if _setfsuid(-1) != uid or _setfsgid(-1) != gid:
                raise OSError(errno.EPERM, "cannot act as another user")
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_exc: object) -> None:
        if self.capabilities is not None:
            _set_capabilities(self.capabilities)
        _setfsuid(_uid)  # from somebody's id to 0 the kernel puts back what it took out
        _setfsgid(_gid)
        _set_groups(_groups)
        _thread.without_fsetid = self.own
        if self.caller.label is not None:
            _set_create_label(None)


def _set_create_label(label: tuple[bytes, bytes] | None) -> None:
    """Choose the label of what this thread creates; None: as the security module decides.

    Set before and not written afterwards: an object must never exist without its label.
    """
    if label is not None and label[0] != b"security.selinux":
        raise OSError(errno.EOPNOTSUPP, f"no way to create with the label {label[0]!r}")
    with open("/proc/thread-self/attr/fscreate", "wb", buffering=0) as attribute:
        attribute.write(label[1] if label is not None else b"")


def acting_as(caller: Caller, *, checked: bool) -> AbstractContextManager[object]:
    if caller.uid == _UNTOLD:
        caller = told(caller)
    if is_self(caller) and not caller.groups and caller.label is None:
        return _nothing
    return _ActingAs(caller, checked)


_umask_lock = threading.Lock()


class _Masking:
    """For threads that share their umask with the process: one at a time, and put back."""

    __slots__ = ("previous", "umask")

    def __init__(self, umask: int) -> None:
        self.umask = umask

    def __enter__(self) -> None:
        _umask_lock.acquire()
        self.previous = os.umask(self.umask)

    def __exit__(self, *_exc: object) -> None:
        os.umask(self.previous)
        _umask_lock.release()


def masking(umask: int) -> AbstractContextManager[object]:
    mine = _thread
    if mine.umask is None:
        return _Masking(umask)
    if mine.umask != umask:
        os.umask(umask)
        mine.umask = umask
    return _nothing


class _WithoutFsetid:
    __slots__ = ("before", "caller", "sets")

    def __init__(self, caller: Caller | None) -> None:
        self.caller = caller
        self.before: tuple[int, tuple[int, ...]] | None = None

    def __enter__(self) -> None:
        self.sets = _capabilities()
        caller = self.caller
        try:
            # A thread that acts as its caller has the groups already, and lost CAP_SETGID with that.
            if caller is not None and self.sets[0] >> _CAP_SETGID & 1:
                caller = told(caller)
                before = (_setfsgid(-1), tuple(os.getgroups()))
                _set_groups(caller.groups or ())
                self.before = before
                _setfsgid(caller.gid)
            changed = list(self.sets)
            changed[0] &= ~(1 << _CAP_FSETID)
            _set_capabilities(changed)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_exc: object) -> None:
        _set_capabilities(self.sets)
        if self.before is not None:
            gid, groups = self.before
            _setfsgid(gid)
            _set_groups(groups)


class _OwnWithoutFsetid:
    """As _WithoutFsetid, for a thread that has the capabilities it began with."""

    __slots__ = ("lasting", "sets", "without")

    def __init__(self) -> None:
        sets = _capabilities()
        # A thread begins with what the one has that starts it, which may be without for a while.
        # (A process of root begins with all that it is permitted: capabilities(7), execve.)
        sets[0] |= sets[1] & 1 << _CAP_FSETID
        self.sets = struct.pack("=6I", *sets)
        self.without = struct.pack("=6I", sets[0] & ~(1 << _CAP_FSETID), *sets[1:])
        #: Whether it is without until put_back().
        self.lasting = True
        self.put_back()

    def __enter__(self) -> None:
        if not self.lasting and _syscall(_SYS_CAPSET, _CAP_HEADER, self.without):
            raise _fail()

    def __exit__(self, *_exc: object) -> None:
        if not self.lasting and _syscall(_SYS_CAPSET, _CAP_HEADER, self.sets):
            raise _fail()

    def last(self) -> None:
        self.__enter__()
        self.lasting = True

    def put_back(self) -> None:
        if self.lasting:
            if _syscall(_SYS_CAPSET, _CAP_HEADER, self.sets):
                raise _fail()
            self.lasting = False


def without_fsetid(caller: Caller | None = None) -> AbstractContextManager[object]:
    if caller is None:
        own = _thread.without_fsetid
        if own is not None:
            return own
    return _WithoutFsetid(caller) if may_act_as_others() else _nothing


def drop_fsetid() -> None:
    own = _thread.without_fsetid
    if own is not None:
        own.last()
    elif may_act_as_others():
        raise RuntimeError("only for threads that called own_file_system_state()")


def restore_fsetid() -> None:
    own = _thread.without_fsetid
    if own is not None:
        own.put_back()


_CLONE_FS = 0x200


def own_file_system_state() -> None:
    # umask, like the working directory, belongs to what CLONE_FS shares: by default the whole
    # process.  A mask of its own lets the source's kernel weigh it against a default ACL.
    if _libc.unshare(_CLONE_FS):
        raise _fail()
    os.umask(0)
    _thread.umask = 0
    if may_act_as_others():
        _thread.without_fsetid = _OwnWithoutFsetid()
