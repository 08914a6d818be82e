# SPDX-License-Identifier: MIT
"""What two sides must have in common: results, what was touched, and in the end the whole trees.

Owns :class:`Difference` and :class:`Run`, one sequence on a mount, its twin, and the source behind the mount.
Does not own what is excused: that is :mod:`differential.known`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from differential.known import Failed, Known
from differential.perform import perform
from differential.sides import NotHere, Side, Slot
from differential.steps import LOOK_AFTER, LOOK_AROUND, Pick, Step
from xloop.testing import Facts, facts
from xloop.types import NOW

__all__ = ["Difference", "Run", "Seen", "failure"]

_WITH_XATTRS = {"setxattr", "removexattr", "fsetxattr", "fremovexattr", "chmod", "fchmod", "chown"}
_WITH_XATTRS |= {"mkdir", "mknod", "open", "fchown", "make", "truncate", "write", "pwrite"}
_RECENT = time.time_ns() - 86400 * 10**9


class Difference(AssertionError):
    """The two sides do not agree."""


class Seen(NamedTuple):
    """What one side shows of one object."""

    facts: Facts
    target: bytes
    xattrs: list[tuple[bytes, bytes]]
    #: Not equal on both sides, but equal to one another on both.
    ino: int
    times: tuple[int, int, int]  #: atime, mtime, ctime in nanoseconds


def failure(error: OSError) -> Failed:
    return Failed(errno.errorcode.get(error.errno or 0, str(error)))


def attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return failure(error)


def look(side: Side, target: bytes | Slot, xattrs: bool = True) -> Seen | Failed:
    """Look at a path, itself and not where it leads, or at a slot."""
    try:
        return _looked(side, target, xattrs)
    except OSError as error:
        return failure(error)


def _looked(side: Side, target: bytes | Slot, with_xattrs: bool) -> Seen:
    me = side.me
    link = b""
    xattrs = []
    if isinstance(target, tuple):
        st = side.owner(target).fstat(side.slots[target][0])
    else:
        path = side.path(target)
        st = me.lstat(path)
        if stat.S_ISLNK(st.st_mode):
            link = me.readlink(path)
        elif with_xattrs:
            for name in sorted(me.listxattr(path, False)):
                xattrs.append((name, attempt(lambda: me.getxattr(path, name, False))))
    times = st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns
    return Seen(facts(st), link, xattrs, st.st_ino, times)


def _explicit(when: int) -> int | str:
    """Return a time that somebody must have set, or that it is none."""
    return when if when < _RECENT or when > time.time_ns() + 86400 * 10**9 else "recent"


def shown(what: Any) -> str:
    """Return *what* for a person: long data is cut."""
    text = repr(what)
    return text if len(text) < 600 else f"{text[:400]} ... {text[-150:]} (of {len(text)})"


def _quietly_listed(path: bytes) -> list[tuple[bytes, bool]]:
    """Return the names in *path*, and which are directories, and move no access time."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
    except OSError:
        return []  # not for me to read
    try:
        with os.scandir(fd) as entries:
            names = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
    finally:
        os.close(fd)
    return sorted(names)


class Run:
    """One sequence on *mnt* and *ref*; *src* is what lies behind *mnt*."""

    def __init__(
        self, mnt: Side, ref: Side, src: Side, known: Known, exact_times: bool = True
    ) -> None:
        self.mnt = mnt
        self.ref = ref
        self.src = src
        self.known = known
        #: Two changes never get the same time (multigrain timestamps).
        self.exact_times = exact_times
        self.taken = 0
        #: The twin's files that have or had several names, as far as steps were about them.
        self._with_names: set[int] = set()
        #: The steps, as they were taken.
        self.steps: list[Step] = []

    def _differ(self, what: str, mine: Any, theirs: Any, names: tuple[str, str]) -> None:
        text = f"{what}\n  {names[0]}: {shown(mine)}\n  {names[1]}: {shown(theirs)}"
        raise Difference(text)

    def _same(self, what: str, mine: Any, theirs: Any, other: str = "twin") -> None:
        if mine != theirs:
            self._differ(what, mine, theirs, ("mount", other))

    # -- one step -------------------------------------------------------------------------

    def take(self, steps: list[Step]) -> None:
        """Take *steps* on both sides; Difference at the first one that shows."""
        for drawn in steps:
            step = self._resolved(drawn)
            if self.known.skips(step, self.known.minds_names and self._linked(step)):
                continue
            self.steps.append(step)
            if self._excused_end(step):
                return
        self.compare_trees()

    def _resolved(self, step: Step) -> Step:
        """Return *step* with what it takes chosen from what the twin has."""
        args = list(step.args)
        there: dict[str, list[Any]] = {}
        for at, arg in enumerate(args):
            if not isinstance(arg, Pick):
                continue
            if arg.what == "slot":
                slots = self.ref.slots
                args[at] = arg.of([n for process, n in slots if process == (step.who == "proc")], 0)
                continue
            there = there or self._there()
            args[at] = arg.of(there[arg.what], b"a")
        return step._replace(args=tuple(args))

    def _there(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"path": [], "dir": [b"."]}
        pending = [b""]
        top = os.path.join(self.ref.world.path, self.ref.prefix)
        while pending:
            above = pending.pop()
            for name, is_dir in _quietly_listed(os.path.join(top, above)):
                path = os.path.join(above, name)
                found["path"].append(path)
                if is_dir:
                    found["dir"].append(path)
                    pending.append(path)
        return found

    def _excused_end(self, step: Step) -> bool:
        """Take one step.  True: the sides differ as they may, and cannot be compared any further."""
        self._let_go()
        targets = list(self._targets(step))
        before = [self._look_both(t, False) for t in targets] if step.look == LOOK_AROUND else []
        try:
            mine = attempt(lambda: perform(self.mnt, step))
        except (NotHere, NotImplementedError):
            if self.mnt.world.has_kernel:
                self._expect_not_here(step)
            return False
        try:
            theirs = attempt(lambda: perform(self.ref, step))
        except NotHere as why:
            self._differ(f"only the mount could do {step}", mine, why, ("mount", "twin"))
        self.taken += 1
        linked = self.known.minds_names and self._linked(step)
        if mine != theirs and self.known.retries(step.call):
            mine = self._retried(step, theirs)
        self._align(step, isinstance(mine, Failed))
        if mine != theirs:
            excuse = self.known.excuse(step, mine, theirs, linked, self._kinds(step))
            if excuse is not None:
                both_failed = isinstance(mine, Failed) and isinstance(theirs, Failed)
                return not (excuse.harmless or both_failed)
            self._same(f"{step}", mine, theirs)
        if step.look >= LOOK_AFTER:
            with_xattrs = step.call in _WITH_XATTRS
            # What a step opened or closed is another slot now.
            targets = list(self._targets(step))
            after = [self._look_both(target, with_xattrs) for target in targets]
            self._compare_looks(step, targets, after)
            if before and len(before) == len(after):
                self._compare_changes(step, targets, before, after)
        return False

    def _let_go(self) -> None:
        """Close what the mount may have lost, and has."""
        if not self.known.loses_any:
            return
        for slot in [slot for slot in self.mnt.slots if slot in self.ref.slots]:
            if self.known.loses(look(self.mnt, slot)):
                who = "proc" if slot[0] else "me"
                for side in (self.mnt, self.ref):
                    with contextlib.suppress(OSError):
                        side.drop(who, slot[1])

    def _retried(self, step: Step, wanted: Any) -> Any:
        for _ in range(100):
            time.sleep(0.005)
            mine = attempt(lambda: perform(self.mnt, step))
            if mine == wanted:
                break
        return mine

    def _align(self, step: Step, failed: bool) -> None:
        """Take away what *step* may leave different."""
        if not failed and self.known.blurs_mtime(step.call):
            for side in (self.mnt, self.ref):
                what = step.args[0]
                if isinstance(what, bytes):
                    side.me.utime(side.path(what), None, NOW)
                else:
                    side.me.futime(side.fd(step.who, what), None, NOW)
        if self.known.clears_set_id(step.call):
            for target in self._targets(step):
                with contextlib.suppress(OSError):
                    self._align_set_id(target)

    def _align_set_id(self, target: bytes | Slot) -> None:
        """Let the twin have the S_ISUID and S_ISGID of the mount."""
        modes = []
        for side in (self.mnt, self.ref):
            if isinstance(target, tuple):
                st = side.owner(target).fstat(side.slots[target][0])
            else:
                st = side.me.stat(side.path(target))
            modes.append(stat.S_IMODE(st.st_mode))
        mine, theirs = modes
        if mine == theirs or mine & 0o1777 != theirs & 0o1777:
            return
        if isinstance(target, tuple):
            self.ref.owner(target).fchmod(self.ref.slots[target][0], mine)
        else:
            self.ref.me.chmod(self.ref.path(target), mine)

    def _kinds(self, step: Step) -> frozenset[int]:
        """Return the types of what *step* names by path."""
        found = set()
        for target in self._targets(step):
            if isinstance(target, bytes):
                with contextlib.suppress(OSError):
                    found.add(stat.S_IFMT(self.ref.me.stat(self.ref.path(target)).st_mode))
        return frozenset(found)

    def _linked(self, step: Step) -> bool:
        """Tell whether *step* is about a file that has several names."""
        named = [self._has_names(target) for target in self._targets(step)]  # all: it remembers
        return any(named)

    def _has_names(self, target: bytes | Slot) -> bool:
        """Tell whether *target* has several names, or had when a step was about it."""
        try:
            if isinstance(target, tuple):
                st = self.ref.owner(target).fstat(self.ref.slots[target][0])
            else:
                st = self.ref.me.stat(self.ref.path(target))
        except OSError:
            return False
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            self._with_names.add(st.st_ino)
        return st.st_ino in self._with_names

    def _may_be_late(self, target: bytes | Slot, mine: Any, theirs: Any) -> bool:
        """Tell whether the content of *target* differs, and may."""
        step = Step("content", "me", (target,))
        return mine != theirs and bool(
            self.known.excuse(step, mine, theirs, self._has_names(target))
        )

    def _expect_not_here(self, step: Step) -> None:
        try:
            theirs = attempt(lambda: perform(self.ref, step))
        except NotHere:
            return
        self._differ(f"only the twin could do {step}", "nothing there", theirs, ("mount", "twin"))

    def _targets(self, step: Step) -> Iterator[bytes | Slot]:
        """Yield the paths and slots that *step* names."""
        for kind, arg in zip(_KINDS[step.call], step.args, strict=False):
            if kind == "path":
                # '.' and '..' are for the step itself: what they lead to has another name too.
                if b"/." not in arg:
                    yield arg
            elif kind == "slot":
                slot = step.who == "proc", arg
                if slot in self.mnt.slots and slot in self.ref.slots:
                    yield slot

    def _look_both(self, target: Any, with_xattrs: bool) -> tuple[Any, Any]:
        if isinstance(target, tuple):
            return look(self.mnt, target), look(self.ref, target)
        return look(self.mnt, target, with_xattrs), look(self.ref, target, with_xattrs)

    def _compare_looks(self, step: Step, targets: list[Any], looks: list[tuple[Any, Any]]) -> None:
        seen: list[tuple[int, int, Any]] = [
            (self.mnt.slots[slot][1], self.ref.slots[slot][1], f"slot {slot}")
            for slot in self.mnt.slots
            if slot in self.ref.slots
        ]
        for target, (mine, theirs) in zip(targets, looks, strict=True):
            if not (isinstance(mine, Seen) and isinstance(theirs, Seen)):
                if target != b"." or not self._dots_may_differ(mine, theirs):
                    self._same(f"after {step}: {target!r}", mine, theirs)
                continue
            self._compare_seen(f"after {step}: {target!r}", mine, theirs)
            seen.append((mine.ino, theirs.ino, target))
        for one, other in itertools.combinations(seen, 2):
            same = one[0] == other[0], one[1] == other[1]
            self._same(f"after {step}: {one[2]!r} and {other[2]!r} are the same file", *same)

    def _dots_may_differ(self, mine: Any, theirs: Any) -> bool:
        """Tell whether looking at the top itself, by the name '.', may end so."""
        return self.known.excuse(Step("stat", "me", (b"/.", True)), mine, theirs) is not None

    def _compare_seen(self, what: str, mine: Seen, theirs: Seen) -> None:
        self._same(what, mine[:3], theirs[:3])
        kind = mine.facts.type
        for name, my_time, their_time in zip("am", mine.times, theirs.times, strict=False):
            if self.known.ignores_time(name, kind):
                continue
            self._same(f"{what}: {name}time", _explicit(my_time), _explicit(their_time))

    def _compare_changes(
        self, step: Step, targets: list[Any], before: list[Any], after: list[Any]
    ) -> None:
        if not self.exact_times or self.known.is_calm(step.call):
            return
        for target, olds, news in zip(targets, before, after, strict=True):
            if not all(isinstance(seen, Seen) for seen in (*olds, *news)):
                continue
            if any(old.ino != new.ino for old, new in zip(olds, news, strict=True)):
                continue
            kind = olds[0].facts.type
            if kind == stat.S_IFDIR:
                continue  # theirs may come from the inode whose name came or went
            if kind == stat.S_IFREG and self.known.ticks:
                continue
            # Not atime: whether it moves depends on how it compares with times of this very tick.
            for at, name in ((1, "m"), (2, "c")):
                if self.known.ignores_time(name, kind):
                    continue
                moved = [
                    old.times[at] != new.times[at] for old, new in zip(olds, news, strict=True)
                ]
                self._same(f"{step} moved the {name}time of {target!r}", *moved)

    # -- the whole ------------------------------------------------------------------------

    def compare_trees(self) -> None:
        """Compare what is there in the end: names, contents, link groups, and what is still open."""
        self._let_go()
        self._compare_open()
        if self.known.delays:
            self._write_out()
        inos: dict[int, tuple[int, bytes]] = {}
        pending = [b""]
        while pending:
            path = pending.pop()
            # First: what follows reads, and that moves times on the source.
            self._compare_source(path)
            mine, theirs = (look(side, path or b".") for side in (self.mnt, self.ref))
            if not (isinstance(mine, Seen) and isinstance(theirs, Seen)):
                if path or not self._dots_may_differ(mine, theirs):
                    self._same(f"in the end: {path!r}", mine, theirs)
                continue
            self._compare_seen(f"in the end: {path!r}", mine, theirs)
            real = look(self.src, path or b".")
            if isinstance(real, Seen):
                self._same(f"in the end: {path!r}", mine[:3], real[:3], "source")
            other, first = inos.setdefault(mine.ino, (theirs.ino, path))
            self._same(f"in the end: {path!r} and {first!r} are the same file", other, theirs.ino)
            if stat.S_ISDIR(mine.facts.type):
                pending += self._compare_names(path)
            elif stat.S_ISREG(mine.facts.type):
                self._compare_content(path)
        if len({ino for ino, _ in inos.values()}) != len(inos):
            self._differ("in the end: hard links", inos, "fewer files", ("mount", "twin"))

    def _write_out(self) -> None:
        for slot in self.mnt.slots:
            attempt(lambda: self.mnt.owner(slot).fsync(self.mnt.slots[slot][0]))

    def _compare_source(self, path: bytes) -> None:
        what = f"in the end, mount and source: {path!r}"
        mine, real = (
            attempt(lambda: side.me.lstat(side.path(path or b"."))) for side in (self.mnt, self.src)
        )
        if isinstance(mine, Failed) or isinstance(real, Failed):
            if path or not self._dots_may_differ(mine, real):
                self._same(what, mine, real, "source")
            return
        self._same(what, (mine.st_ino, *facts(mine)), (real.st_ino, *facts(real)), "source")
        for name in "amc":
            own = self.known.has_time_of_its_own(name, mine.st_mode)
            if not own and not self.known.ignores_time(name, mine.st_mode):
                times = (getattr(st, f"st_{name}time_ns") for st in (mine, real))
                self._same(f"{what}: {name}time", *times, "source")

    def _compare_names(self, path: bytes) -> list[bytes]:
        sides = self.mnt, self.ref, self.src
        lists = [attempt(lambda: side.me.listdir(side.path(path or b"."))) for side in sides]
        self._same(f"in the end: names in {path!r}", lists[0], lists[1])
        self._same(f"in the end: names in {path!r}", lists[0], lists[2], "source")
        if isinstance(lists[0], Failed):
            return []
        return [os.path.join(path, name) for name in lists[0]]

    def _compare_content(self, path: bytes) -> None:
        sides = self.mnt, self.ref, self.src
        found = [attempt(lambda: side.me.content(side.path(path))) for side in sides]
        if self._may_be_late(path, found[0], found[1]):
            return
        self._same(f"in the end: content of {path!r}", found[0], found[1])
        self._same(f"in the end: content of {path!r}", found[0], found[2], "source")

    def _compare_open(self) -> None:
        for slot in list(self.mnt.slots):
            mine, theirs = self._look_both(slot, False)
            if not (isinstance(mine, Seen) and isinstance(theirs, Seen)):
                self._same(f"in the end: slot {slot}", mine, theirs)
                continue
            self._compare_seen(f"in the end: slot {slot}", mine, theirs)
            if stat.S_ISREG(mine.facts.type):
                data = [
                    attempt(lambda: side.owner(slot).pread(side.slots[slot][0], 1 << 20, 0))
                    for side in (self.mnt, self.ref)
                ]
                if not self._may_be_late(slot, *data):
                    self._same(f"in the end: content of slot {slot}", *data)


_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("open", "open_passive", "tmpfile"), ("slot", "path")),
    "link_fd": ("slot", "path"),
    "dup": ("slot", "slot"),
    "copy_file_range": ("slot", "", "slot"),
    **dict.fromkeys(("link", "rename"), ("path", "path")),
    "symlink": ("", "path"),
    **dict.fromkeys(("content", "make", "append", "names", "seekdir", "stat", "access"), ("path",)),
    **dict.fromkeys(("chmod", "lchmod", "chown", "lchown", "utime", "truncate"), ("path",)),
    **dict.fromkeys(("statvfs", "readlink", "mkdir", "mknod", "unlink", "rmdir"), ("path",)),
    **dict.fromkeys(("getxattr", "setxattr", "listxattr", "removexattr"), ("path",)),
    **dict.fromkeys(("close", "read", "write", "pread", "pwrite", "lseek", "fsync"), ("slot",)),
    **dict.fromkeys(("fallocate", "shift", "mmap", "inode_flags", "names_of_slot"), ("slot",)),
    **dict.fromkeys(("fchmod", "fchown", "futime", "ftruncate", "flock"), ("slot",)),
    **dict.fromkeys(("fsetxattr", "fgetxattr", "fremovexattr", "setlk", "getlk"), ("slot",)),
}
