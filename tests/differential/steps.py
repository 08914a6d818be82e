# SPDX-License-Identifier: MIT
"""What a random sequence is made of: :class:`Step`, and the strategies that draw them.

Owns the vocabulary: names, flags, sizes, ids, and how often each comes.  Does not own what a step does
(:mod:`differential.perform`).

No step depends on what came before, so that any part of a sequence is one itself: that is what
makes shrinking work.  Most steps would find nothing to act on, so a drawn step may leave it open what
it takes (:class:`Pick`): something that is there.  What is run, and printed, is resolved.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from xloop.types import NOW

__all__ = ["PRELUDE", "USERS", "Pick", "Step", "parse", "render", "sequences"]

#: Who may act beside "me" where I am root: user, group, supplementary groups.
USERS: Final = {"ann": (1001, 2001, (3001,)), "bob": (1002, 2002, (3001, 2001))}

LOOK_AWAY, LOOK_AFTER, LOOK_AROUND = 0, 1, 2


class Pick(NamedTuple):
    """One of those that are there when the step is taken."""

    what: str  #: "path", "dir" or "slot"
    number: int

    def of(self, there: Sequence[Any], otherwise: Any) -> Any:
        return there[self.number % len(there)] if there else otherwise


class Step(NamedTuple):
    """One call of both sides, or a few that belong together."""

    call: str
    who: str
    args: tuple[Any, ...]
    #: Whether what was touched is compared: not at all (caches grow old), after it, or before and
    #: after it, with which times moved.
    look: int = LOOK_AFTER


def render(steps: list[Step]) -> str:
    """Return *steps* as lines that :func:`parse` reads."""
    lines = []
    for step in steps:
        args = ", ".join("NOW" if arg is NOW else repr(arg) for arg in step.args)
        args += "," if len(step.args) == 1 else ""
        lines.append(f"Step({step.call!r}, {step.who!r}, ({args}), {step.look}),")
    return "\n".join(lines)


def parse(text: str) -> list[Step]:
    """Return the steps that are written in *text*, one a line; other lines are comments."""
    lines = [line.strip() for line in text.splitlines()]
    listed = "\n".join(line for line in lines if line.startswith("Step("))
    found = eval(f"[{listed}]", {"Step": Step, "NOW": NOW})
    assert all(isinstance(step, Step) for step in found)
    return list(found)


# -- the small world ------------------------------------------------------------------------

_FILES = [b"a", b"b", b"c", b"d/a", b"d/b", b"e/a", b"d/e/a"]
_DIRS = [b"d", b"e", b"d/e"]
_LINKS = [b"l", b"l/a", b"m", b"d/l"]
_ODD = [b".", b"d/", b"a/", b"d/../b", b"\xff\xfe", b"n" * 255, b"n" * 256, b"d/.", b"x/y", b"l/"]

_fresh = st.sampled_from(_FILES * 4 + _DIRS * 4 + _LINKS * 2 + _ODD)


def _weighted(*choices: tuple[int, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    turns = [i for i, (weight, _) in enumerate(choices) for _ in range(weight)]
    return st.sampled_from(turns).flatmap(lambda turn: choices[turn][1])


def _pick(what: str) -> st.SearchStrategy[Pick]:
    return st.integers(0, 11).map(lambda number: Pick(what, number))


_paths = _weighted((3, _pick("path")), (1, _fresh))
_new = _weighted(
    (3, _fresh),
    (3, st.sampled_from([b"f", b"d/f", b"g", b"e/f", b"d/e/f", b"l/f"])),
    (1, _pick("path")),
)
_dirs = _weighted((4, _pick("dir")), (1, st.sampled_from([b".", b"l", b"a", b"m", b"d"])))
_slots = st.sampled_from([0, 1, 2, 3])
_open_slots = _pick("slot")
_fills = st.integers(0, 255)
_modes = st.sampled_from(
    [0o644, 0o600, 0o666, 0o777, 0o755, 0, 0o444, 0o4755, 0o2755, 0o6777, 0o1777, 0o2770, 0o2644]
)
_umasks = st.sampled_from([0o022, 0, 0o077, 0o027])
_sizes = st.sampled_from([1, 0, 5, 100, 4096, 5000, 9000, 70000])
_offsets = st.sampled_from([0, 1, 10, 4095, 4096, 5000, 8192, 20000, 131072])
_open_flags = st.builds(
    lambda access, making, rest: access | making | rest,
    st.sampled_from([os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY]),
    st.sampled_from([os.O_CREAT, 0, os.O_CREAT, os.O_CREAT | os.O_EXCL]),
    st.sampled_from(
        [0, 0, 0, os.O_TRUNC, os.O_APPEND, os.O_APPEND, os.O_APPEND | os.O_TRUNC]
        + [os.O_NOFOLLOW, os.O_DIRECTORY, os.O_NOATIME, os.O_SYNC]
    ),
)
_passive_flags = st.sampled_from(
    [os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY | os.O_DIRECTORY, os.O_PATH | os.O_DIRECTORY]
)
_old = 1_000_000_000_123_456_789
_times = st.sampled_from(
    [None, NOW, _old, _old + 1_000_000_000, 0, 1, -1, 2**31 * 10**9 + 5, 4_000_000_000_000_000_001]
)
_uids = st.sampled_from([-1, 0, 1001, 1002])
_gids = st.sampled_from([-1, 0, 2001, 2002, 3001])
_flag = st.booleans()


def _acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NOBODY = 0xFFFFFFFF
_ACLS = [
    _acl((1, 6, _NOBODY), (4, 4, _NOBODY), (0x20, 0, _NOBODY)),
    _acl((1, 7, _NOBODY), (4, 5, _NOBODY), (0x20, 5, _NOBODY)),
    _acl((1, 7, _NOBODY), (2, 7, 1001), (4, 0, _NOBODY), (0x10, 7, _NOBODY), (0x20, 0, _NOBODY)),
    _acl((1, 6, _NOBODY), (4, 7, _NOBODY), (8, 6, 3001), (0x10, 5, _NOBODY), (0x20, 7, _NOBODY)),
    _acl((1, 7, _NOBODY), (2, 0, 1002), (4, 7, _NOBODY), (0x10, 2, _NOBODY), (0x20, 7, _NOBODY)),
    _acl((1, 6, _NOBODY)),
    _acl(),
    b"no acl",
]
_ACCESS, _DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
_plain_xattrs = st.tuples(
    st.sampled_from(
        [b"user.a", b"user.b"] * 5
        + [b"trusted.t", b"security.x", b"bogus.x", b"user."]
        + [b"user." + b"x" * 250, b"user." + b"x" * 251]
    ),
    st.sampled_from([b"1", b"", b"22", b"v" * 300, b"\0\xff", b"vv"] * 3 + [b"v" * 70000]),
)
_acl_xattrs = st.tuples(st.sampled_from([_ACCESS, _DEFAULT]), st.sampled_from(_ACLS))
_xattrs = st.one_of(_plain_xattrs, _acl_xattrs)
_xattr_names = st.one_of(
    _plain_xattrs.map(lambda pair: pair[0]), st.sampled_from([_ACCESS, _DEFAULT])
)
_xattr_flags = st.sampled_from([0, 0, 1, 2, 3])
#: FS_IOC_SETFLAGS values: nothing, and FS_NODUMP_FL.
_inode_flags = st.sampled_from([None, 0, 0x40])
_nodes = st.sampled_from(
    [(stat.S_IFIFO, 0), (stat.S_IFSOCK, 0), (stat.S_IFREG, 0), (0, 0), (stat.S_IFDIR, 0)]
    + [(stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(240, 77777))]
)
_lock_starts = st.sampled_from([0, 5, 10, 100])
_lock_lengths = st.sampled_from([0, 1, 5, 10, -5])
#: F_RDLCK, F_WRLCK, F_UNLCK.
_lock_kinds = st.sampled_from([0, 1, 2])
_flock_operations = st.sampled_from([1 | 4, 2 | 4, 8])
#: allocate, KEEP_SIZE, PUNCH_HOLE with it, ZERO_RANGE without and with it, PUNCH_HOLE alone (invalid).
_fallocate_modes = [0, 1, 3, 0x10, 0x11, 2]
#: COLLAPSE_RANGE, INSERT_RANGE.
_shifting_modes = [8, 0x20]
_targets = st.sampled_from([b"d", b"a", b"./b", b"nothing", b"l", b".", b"d/e", b"m", b"x" * 4000])
_renames = st.sampled_from([0, 0, 0, 1, 2, 2, 3])

#: weight, then what the arguments are drawn from.
_CALLS: Final[dict[str, tuple[int, tuple[st.SearchStrategy[Any], ...]]]] = {
    "open": (14, (_slots, _paths, _open_flags, _modes, _umasks)),
    "open_passive": (5, (_slots, _paths, _passive_flags)),
    "tmpfile": (3, (_slots, _dirs, st.sampled_from([os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_EXCL]))
                + (_modes, _umasks)),
    "link_fd": (3, (_open_slots, _new)),
    "close": (3, (_open_slots,)),
    "dup": (2, (_open_slots, _slots)),
    "read": (3, (_open_slots, _sizes)),
    "write": (6, (_open_slots, _fills, _sizes)),
    "pread": (4, (_open_slots, _sizes, _offsets)),
    "pwrite": (6, (_open_slots, _fills, _sizes, _offsets)),
    "lseek": (4, (_open_slots, _offsets, st.sampled_from([0, 1, 2, 3, 4]))),
    "fsync": (1, (_open_slots, _flag)),
    "fallocate": (4, (_open_slots, st.sampled_from(_fallocate_modes), _offsets, _sizes)),
    "shift": (1, (_open_slots, st.sampled_from(_shifting_modes), _offsets, _sizes)),
    "copy_file_range": (4, (_open_slots, st.one_of(st.none(), _offsets), _open_slots)
                        + (st.one_of(st.none(), _offsets), _sizes)),
    "mmap": (4, (_open_slots, _fills, _offsets, _sizes)),
    "inode_flags": (1, (_open_slots, _inode_flags)),
    "content": (4, (_paths,)),
    "make": (5, (_new, _fills, _sizes, _modes, _umasks)),
    "append": (3, (_paths, _fills, _sizes)),
    "names": (3, (_dirs, st.sampled_from([4096, 300, 600]))),
    "names_of_slot": (2, (_open_slots,)),
    "seekdir": (3, (_dirs, st.sampled_from([300, 600, 4096]), st.integers(0, 7), st.integers(0, 7))
                + (st.sampled_from([b"", b"a", b"b", b"e", b"l"]),)),
    "stat": (3, (_paths, _flag)),
    "access": (2, (_paths, st.sampled_from([4, 2, 1, 6, 0]))),
    "chmod": (7, (_paths, _modes)),
    "lchmod": (1, (_paths, _modes)),
    "fchmod": (4, (_open_slots, _modes)),
    "chown": (5, (_paths, _uids, _gids)),
    "lchown": (2, (_paths, _uids, _gids)),
    "fchown": (3, (_open_slots, _uids, _gids)),
    "utime": (6, (_paths, _times, _times, _flag)),
    "futime": (3, (_open_slots, _times, _times)),
    "truncate": (4, (_paths, st.one_of(_offsets, _sizes))),
    "ftruncate": (5, (_open_slots, st.one_of(_offsets, _sizes))),
    "statvfs": (1, (_paths,)),
    "link": (7, (_paths, _new, _flag)),
    "symlink": (5, (_targets, _new)),
    "readlink": (2, (_paths,)),
    "mkdir": (6, (_new, _modes, _umasks)),
    "mknod": (4, (_new, _nodes, _modes, _umasks)),
    "unlink": (7, (_paths,)),
    "rmdir": (4, (_paths,)),
    "rename": (11, (_paths, _new, _renames)),
    "getxattr": (2, (_paths, _xattr_names, _flag)),
    "setxattr": (7, (_paths, _xattrs, _xattr_flags, _flag)),
    "listxattr": (2, (_paths, _flag)),
    "removexattr": (3, (_paths, _xattr_names, _flag)),
    "fsetxattr": (3, (_open_slots, _xattrs, _xattr_flags)),
    "fgetxattr": (1, (_open_slots, _xattr_names)),
    "fremovexattr": (1, (_open_slots, _xattr_names)),
    "flock": (4, (_open_slots, _flock_operations)),
    "setlk": (6, (_open_slots, _lock_kinds, _lock_starts, _lock_lengths, _flag)),
    "getlk": (3, (_open_slots, _lock_kinds, _lock_starts, _lock_lengths, _flag)),
}  # fmt: skip

#: What can be done by a process that has its own descriptors and locks.
_FOR_PROCESS: Final = {
    "open": 8,
    "close": 3,
    "setlk": 8,
    "getlk": 4,
    "flock": 4,
    "pread": 1,
    "pwrite": 2,
    "unlink": 1,
    "rename": 1,
}

#: Any part of it begins a sequence: without it most steps would find nothing.
PRELUDE: Final[tuple[Step, ...]] = (
    Step("mkdir", "me", (b"d", 0o777, 0)),
    Step("mkdir", "me", (b"d/e", 0o777, 0)),
    Step("mkdir", "ann", (b"e", 0o777, 0)),
    Step("setxattr", "me", (b"e", (_DEFAULT, _ACLS[2]), 0, True)),
    Step("make", "me", (b"a", 1, 5000, 0o666, 0)),
    Step("make", "ann", (b"b", 2, 10, 0o644, 0o022)),
    Step("make", "bob", (b"d/a", 3, 0, 0o666, 0)),
    Step("link", "me", (b"a", b"d/b", False)),
    Step("symlink", "me", (b"d", b"l")),
    Step("symlink", "ann", (b"a", b"m")),
    Step("open", "me", (0, b"a", os.O_RDWR, 0, 0)),
    Step("open", "ann", (1, b"c", os.O_RDWR | os.O_CREAT, 0o644, 0)),
    Step("open", "me", (2, b"d/a", os.O_RDWR | os.O_APPEND, 0, 0)),
    Step("open_passive", "me", (3, b"d", os.O_RDONLY | os.O_DIRECTORY)),
    Step("open", "proc", (0, b"a", os.O_RDWR, 0, 0)),
    Step("setxattr", "me", (b"a", (b"user.a", b"1"), 0, True)),
)


def sequences(
    players: tuple[str, ...], allowed: Callable[[str], bool] = lambda _: True
) -> st.SearchStrategy[list[Step]]:
    """Return what draws sequences of up to about 100 steps that *players* can take."""
    everybody = [
        call for call, (weight, _) in _CALLS.items() for _ in range(weight) if allowed(call)
    ]
    process = [call for call, weight in _FOR_PROCESS.items() for _ in range(weight)]
    steps = {call: _arguments(call) for call in _CALLS}
    people = [player for player in players if player != "proc"]
    # Mostly me: whoever may do nothing finds nothing.
    who = st.sampled_from([people[0]] * 3 + [p for p in people for _ in range(2)] + [players[-1]])
    calls = {False: st.sampled_from(everybody), True: st.sampled_from(process)}
    looks = st.sampled_from([LOOK_AFTER, LOOK_AFTER, LOOK_AROUND, LOOK_AWAY])

    @st.composite
    def step(draw: st.DrawFn) -> Step:
        player = draw(who)
        call = draw(calls[player == "proc"])
        return Step(call, player, draw(steps[call]), draw(looks))

    some_of_it = st.integers(0, (1 << len(PRELUDE)) - 1).map(lambda bits: _prelude(~bits, players))
    whole = _prelude(-1, players)
    beginning = st.sampled_from([0, 1, 1, 1, 1, 1, 2]).flatmap(
        lambda kind: (st.just([]), st.just(whole), some_of_it)[kind]
    )
    some = st.lists(step(), max_size=14)
    return st.tuples(beginning, *[some] * 8).map(lambda parts: [s for part in parts for s in part])


def _arguments(call: str) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*_CALLS[call][1])


def _prelude(bits: int, players: tuple[str, ...]) -> list[Step]:
    chosen = [step for i, step in enumerate(PRELUDE) if bits >> i & 1]
    return [s if s.who in players else s._replace(who="me") for s in chosen]
