# SPDX-License-Identifier: MIT
"""Where a subject may differ from a native directory, each with its reason: :data:`KNOWN`.

Owns nothing but that list and how it is asked.  What is here is a property of the kernel's FUSE client, or
of the kit's stand-in for a kernel, never of xloop.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from differential.steps import Step

__all__ = ["KNOWN", "Excuse", "Failed", "Known"]


class Failed(NamedTuple):
    """The error that a call ended with."""

    errno: str


#: The step, the mount's result and the twin's.
Applies = Callable[[Step, Any, Any], bool]


class Excuse(NamedTuple):
    """One known difference."""

    why: str
    #: What a subject must have, all of it: "fuse", "inprocess", "served" (data comes through xloop),
    #: "writeback" (and what is written comes later), "unchecked" and "checked" (the source, or the kernel, checks permissions), "path" (files are known by their paths), "libfuse3",
    #: "libfuse2", "refuse", and the type of the source's file system.
    tags: frozenset[str]
    #: Calls that are not made at all.
    without: frozenset[str] = frozenset()
    #: Steps that are not taken.  The second argument: it is about a file with several names.
    skips: Callable[[Step, bool], bool] | None = None
    #: The results may differ so; where one side did something, the sequence ends there.
    applies: Applies | None = None
    #: Neither side has changed anything then.
    harmless: bool = False
    #: Calls that leave a file's mtime as they may: it is set on both sides afterwards.
    blurs_mtime: frozenset[str] = frozenset()
    #: Calls after which the mount may have other S_ISUID and S_ISGID: the twin gets them too.
    clears_set_id: frozenset[str] = frozenset()
    #: Calls that are made again on the mount, for a while, if they differ.
    retried: frozenset[str] = frozenset()
    #: Times (a, m, c) that are not compared, and the types of file for which.
    times: str = ""
    types: frozenset[int] = frozenset()
    #: Times of regular files that are not compared with the source's, and with the twin's they are.
    own_times: str = ""
    #: What is written reaches the source when it is flushed, and is before the two are compared.
    delays: bool = False
    #: Two changes of a regular file within a tick get the same time.
    ticks: bool = False
    #: Errors that say that the subject does not know any more what a slot holds: it is closed on both
    #: sides.
    loses: frozenset[str] = frozenset()
    #: Calls that may move no time.
    calm: frozenset[str] = frozenset()
    #: Only for a file that has, or had, several names.
    linked: bool = False
    #: Only for these types of file; none: for all.
    kinds: frozenset[int] = frozenset()


def _both_fail(*calls: str) -> Applies:
    def applies(step: Step, mine: Any, theirs: Any) -> bool:
        return step.call in calls and isinstance(mine, Failed) and isinstance(theirs, Failed)

    return applies


def _chown_to_nobody(step: Step, mine: Any, theirs: Any) -> bool:
    nobody = step.call in ("chown", "lchown", "fchown") and step.args[1:] == (-1, -1)
    return nobody and mine is None and theirs == Failed("EPERM")


def _denied_later(step: Step, mine: Any, theirs: Any) -> bool:
    return _both_fail(step.call)(step, mine, theirs) and theirs == Failed("EACCES")


def _search_of_dots(step: Step, _: Any, theirs: Any) -> bool:
    dots = any(isinstance(arg, bytes) and b"/." in arg for arg in step.args)
    return dots and theirs == Failed("EACCES")


def _locks_through_one_file(step: Step, mine: Any, theirs: Any) -> bool:
    if os.geteuid() == 0:
        return False
    if step.call == "setlk":
        return mine is None and theirs == Failed("EAGAIN")
    # An open file asked with F_UNLCK about itself tells of the process's locks too.
    return step.call == "getlk" and 2 in (getattr(mine, "type", None), step.args[1])


_LOST = (Failed("ESTALE"), Failed("ENOENT"))
_EPERM = Failed("EPERM")
_BY_OWNER = {
    "chmod",
    "fchmod",
    "chown",
    "lchown",
    "fchown",
    "utime",
    "futime",
    "setxattr",
    "fsetxattr",
}
_BY_OWNER |= {"removexattr", "fremovexattr", "inode_flags", "open", "unlink", "rename"}
_BY_SLOT = {
    "fsetxattr",
    "fgetxattr",
    "fremovexattr",
    "fchmod",
    "fchown",
    "futime",
    "ftruncate",
    "names_of_slot",
}
_BY_SLOT |= {
    "inode_flags",
    "fallocate",
    "lseek",
    "flock",
    "setlk",
    "getlk",
    "link_fd",
    "mmap",
    "fsync",
}

KNOWN: list[Excuse] = [
    Excuse(
        "fuse_file_fallocate() knows allocate, KEEP_SIZE, PUNCH_HOLE and ZERO_RANGE, and answers "
        "EOPNOTSUPP to the modes that shift what follows without asking",
        frozenset({"fuse"}),
        without=frozenset({"shift"}),
    ),
    Excuse(
        "tmpfs moves no time when a mapping is written to, and what comes back from a mapping of the "
        "mount is written with a write, which does (with passthrough too, for what has S_ISUID or S_ISGID "
        "when it is opened)",
        frozenset({"fuse", "tmpfs"}),
        blurs_mtime=frozenset({"mmap"}),
    ),
    Excuse(
        "what the kernel has cached it gives without asking (CACHE_SYMLINKS), and FUSE inodes keep no "
        "access time of their own (S_NOATIME): only the first reading of a link moves it",
        frozenset({"fuse"}),
        times="a",
        types=frozenset({stat.S_IFLNK}),
    ),
    Excuse(
        "the same for the pages of a file whose data comes through xloop: always without passthrough, and "
        "for what has S_ISUID or S_ISGID when it is opened",
        frozenset({"fuse"}),
        times="a",
        types=frozenset({stat.S_IFREG}),
    ),
    Excuse(
        "the kernel carries data through a FIFO itself, and moves no time of an inode of FUSE (S_NOCMTIME)",
        frozenset({"fuse"}),
        times="amc",
        types=frozenset({stat.S_IFIFO}),
    ),
    Excuse(
        "tmpfs makes a page of a hole that is read through a mapping, and SEEK_DATA finds it; what the mount "
        "maps are pages of its own",
        frozenset({"fuse", "tmpfs"}),
        applies=lambda step, mine, theirs: (
            step.call == "lseek" and step.args[2] in (3, 4) and mine != theirs
        ),
    ),
    Excuse(
        "ext4 takes space that is allocated and was never written for data where pages of it are in its cache: what the "
        "mount maps are pages of its own, and the server has read others of the source's",
        frozenset({"fuse", "served", "ext4"}),
        applies=lambda step, mine, theirs: (
            step.call == "lseek"
            and step.args[2] in (3, 4)
            and isinstance(mine, int)
            and isinstance(theirs, int)
        ),
    ),
    Excuse(
        "a backing file is written with the rights of the server when it was registered, which are without "
        "CAP_FSETID, but with root's groups: bits that are set while the file is open are cleared by root's "
        "write too, and S_ISGID without execution for the group, of root's group, by nobody's",
        frozenset({"fuse", "passthrough"}),
        clears_set_id=frozenset({"write", "pwrite", "make", "append"}),
    ),
    Excuse(
        "the kernel asks for the same, SETATTR with nothing in it, for a chown(2) with neither owner nor "
        "group and before a write to a file with set-id bits; while somebody has the file open for "
        "writing, whoever asks may be about to write",
        frozenset({"fuse"}),
        applies=_chown_to_nobody,
        harmless=True,
    ),
    Excuse(
        "fuse_file_fallocate() takes S_ISUID and S_ISGID away before it asks, and so also for a mode that "
        "the source does not have",
        frozenset({"fuse"}),
        clears_set_id=frozenset({"fallocate"}),
    ),
    Excuse(
        "the kit looks at the path before it finds that O_CREAT and O_DIRECTORY exclude each other",
        frozenset({"inprocess"}),
        applies=lambda step, mine, theirs: (
            _both_fail("open")(step, mine, theirs) and bool(step.args[2] & os.O_DIRECTORY)
        ),
    ),
    Excuse(
        "the kit finds that two ranges overlap before it cuts them off at the end of the file",
        frozenset({"inprocess"}),
        applies=lambda step, mine, _: step.call == "copy_file_range" and mine == Failed("EINVAL"),
    ),
    Excuse(
        "the kit looks at descriptors, ranges and names in another order",
        frozenset({"inprocess"}),
        applies=_both_fail("copy_file_range", "fallocate", "shift", "rename", "read"),
    ),
    Excuse(
        "the kit looks at the descriptor even where no time is to be set",
        frozenset({"inprocess"}),
        applies=lambda step, mine, _: (
            step.call == "futime" and step.args[1:] == (None, None) and mine == Failed("EBADF")
        ),
        harmless=True,
    ),
    Excuse(
        "the kit asks in the same way as the kernel for a chown(2) with neither owner nor group",
        frozenset({"inprocess"}),
        applies=_chown_to_nobody,
        harmless=True,
    ),
    Excuse(
        "the kit refuses to ask for unlocked ranges, which Linux allows for OFD locks",
        frozenset({"inprocess"}),
        applies=lambda step, mine, theirs: (
            step.call == "getlk" and mine == Failed("EINVAL") and step.args[1] == 2
        ),
        harmless=True,
    ),
    Excuse(
        "the kit opens a directory with O_RDONLY | O_TRUNC, for which the kernel wants to write",
        frozenset({"inprocess"}),
        applies=lambda step, _, theirs: step.call == "open" and theirs == Failed("EISDIR"),
    ),
    Excuse(
        "the kit asks nobody whether a directory may be searched for '.' and '..'",
        frozenset({"inprocess"}),
        applies=_search_of_dots,
    ),
    Excuse(
        "where the source checks permissions the kernel asks it by looking names up, and '.' and '..' it does "
        "not look up (fuse_permission)",
        frozenset({"fuse", "unchecked"}),
        applies=_search_of_dots,
    ),
    Excuse(
        "for the same reason it meets what else is wrong with a path before it is refused the search",
        frozenset({"fuse", "unchecked"}),
        applies=_denied_later,
    ),
    Excuse(
        "the kernel tells of a last close only after close(2) has returned (RELEASE goes to the background), and "
        "so the locks of an open file go a moment late",
        frozenset({"fuse"}),
        retried=frozenset({"flock", "setlk", "getlk"}),
    ),
    Excuse(
        "for FS_IOC_GETFLAGS and its like the kernel opens the file once more (fuse_priv_ioctl_prepare), "
        "and its mode may have changed",
        frozenset({"fuse", "unchecked"}),
        applies=lambda step, mine, _: step.call == "inode_flags" and mine == Failed("EACCES"),
    ),
    Excuse(
        "a FIFO is opened by the kernel, and nobody asks the source",
        frozenset({"fuse", "unchecked"}),
        applies=lambda step, mine, theirs: (
            step.call in ("open", "make", "append") and mine is None and theirs == Failed("EACCES")
        ),
        kinds=frozenset({stat.S_IFIFO}),
    ),
    Excuse(
        "what comes back from a mapping is written by the server, and to an ordinary user's write the "
        "source's kernel does what it does not do to a mapping",
        frozenset({"fuse", "unchecked"}),
        clears_set_id=frozenset({"mmap"}),
    ),
    Excuse(
        "the kernel keeps what is written, and times: nobody can set a ctime, so the source's is that of the last "
        "request about the file",
        frozenset({"fuse", "writeback"}),
        own_times="c",
        delays=True,
    ),
    Excuse(
        "a truncation to the size that a file has moves its times on some file systems, and the kernel, which keeps "
        "them, does not know (fuse_do_setattr): the mount shows it when it looks the file up anew",
        frozenset({"fuse", "writeback"}),
        blurs_mtime=frozenset({"truncate"}),
    ),
    Excuse(
        "the times that the kernel gives to files of FUSE are those of its clock's ticks (FS_MGTIME is not set)",
        frozenset({"fuse", "writeback"}),
        ticks=True,
    ),
    *(
        Excuse(
            "a file whose mode does not let its own owner open it again is locked with the one open file "
            "that there is, so that two owners of locks who share it do not exclude each other",
            tags,
            applies=_locks_through_one_file,
        )
        for tags in (frozenset({"fuse", "unchecked"}), frozenset({"inprocess"}))
    ),
    Excuse(
        "the kit leaves permissions to the source, and looks at names and types before it asks",
        frozenset({"inprocess"}),
        applies=lambda step, mine, theirs: (
            _both_fail(step.call)(step, mine, theirs)
            and bool({mine.errno, theirs.errno} & {"EACCES", "EPERM"})
        ),
    ),
    Excuse(
        "the path-based interface of libfuse has no O_TMPFILE",
        frozenset({"path"}),
        without=frozenset({"tmpfile"}),
    ),
    Excuse(
        "libfuse knows files by path: what is held and has none any more (its directory is gone too, or it was "
        "not open but held by O_PATH) is answered with ESTALE by version 3 and with ENOENT by version 2",
        frozenset({"path"}),
        loses=frozenset({"ESTALE", "ENOENT"}),
        applies=lambda step, mine, _: step.call in _BY_SLOT and mine in _LOST,
    ),
    Excuse(
        "the same for what may not be searched for any more, where the source checks permissions",
        frozenset({"path", "unchecked"}),
        loses=frozenset({"EACCES"}),
        applies=lambda step, mine, _: step.call in _BY_SLOT and mine == Failed("EACCES"),
    ),
    Excuse(
        "libfuse has a node for each name: whether a file may be changed through one name the kernel judges by "
        "the owner that it knew by that name",
        frozenset({"path", "checked"}),
        applies=lambda step, mine, theirs: (
            step.call in _BY_OWNER and _EPERM in (mine, theirs) and mine != theirs
        ),
        linked=True,
    ),
    Excuse(
        "for the same reason the kernel does not see that two names are of one file: renaming one to the other, which is "
        "nothing at all, takes the right to change their directories",
        frozenset({"path", "checked"}),
        applies=lambda step, mine, theirs: (
            step.call == "rename" and theirs is None and mine in (Failed("EACCES"), _EPERM)
        ),
        harmless=True,
        linked=True,
    ),
    Excuse(
        "libfuse answers F_GETLK out of a table of its own (the backend libfuse does not let it): asked for "
        "unlocked ranges (F_UNLCK), and with the locks of open files that are closed",
        frozenset({"refuse"}),
        applies=lambda step, *_: step.call == "getlk",
        harmless=True,
    ),
    Excuse(
        "the kernel enforces ACLs that it knows (FUSE_POSIX_ACL), and libfuse 2 cannot ask for that",
        frozenset({"libfuse2", "checked"}),
        skips=lambda step, _: (
            step.call in ("setxattr", "fsetxattr")
            and step.args[1][0].startswith(b"system.posix_acl")
        ),
    ),
    Excuse(
        "libfuse 2 passes no ioctl on for a directory",
        frozenset({"libfuse2"}),
        applies=lambda step, mine, _: step.call == "inode_flags" and mine == Failed("ENOTTY"),
    ),
    Excuse(
        "libfuse 2 does not pass SEEK_DATA and SEEK_HOLE on: to the kernel all is data",
        frozenset({"libfuse2"}),
        applies=lambda step, *_: step.call == "lseek" and step.args[2] in (3, 4),
    ),
    Excuse(
        "libfuse has a node for each name, and the kernel a page cache for each node: what was written through one "
        "name may be seen late through another",
        frozenset({"path"}),
        applies=lambda step, mine, theirs: (
            step.call in ("read", "pread", "content", "mmap") and type(mine) is type(theirs)
        ),
        linked=True,
    ),
    Excuse(
        "for the same reason a mapping writes whole pages, with what it knew of the rest of them",
        frozenset({"path"}),
        skips=lambda step, linked: linked and step.call == "mmap",
    ),
    Excuse(
        "for the same reason, and as libfuse 2 leaves copying to it, the kernel copies what it knew, and does not see "
        "that it copies within one file",
        frozenset({"libfuse2"}),
        skips=lambda step, linked: linked and step.call == "copy_file_range",
    ),
    Excuse(
        "libfuse does not pass on that a write is by somebody else (FUSE_WRITE_KILL_SUIDGID): the kernel clears "
        "the bits, but not S_ISGID where the group may not execute",
        frozenset({"path"}),
        clears_set_id=frozenset(
            {
                "write",
                "pwrite",
                "make",
                "append",
                "truncate",
                "ftruncate",
                "fallocate",
                "copy_file_range",
                "mmap",
            }
        ),
    ),
    Excuse(
        "through refuse libfuse does not tell whether it hides an open file because that is removed or because it is "
        "replaced, and so a rename between two names of one open file, which does nothing, removes one",
        frozenset({"refuse"}),
        skips=lambda step, linked: linked and step.call == "rename",
    ),
    Excuse(
        "libfuse makes two calls of a SETATTR of owner and mode, and refuse passes them on as they are: what the kernel "
        "takes away with a chown(2) is gone when that is refused",
        frozenset({"refuse"}),
        clears_set_id=frozenset({"chown", "lchown", "fchown"}),
    ),
    Excuse(
        "refuse passes a SETATTR of nothing on as a question for the attributes",
        frozenset({"refuse"}),
        calm=frozenset({"chown", "lchown", "fchown"}),
    ),
    Excuse(
        "libfuse 2 has a rename without flags: the kernel answers EINVAL to all of them",
        frozenset({"libfuse2"}),
        applies=lambda step, mine, _: (
            step.call == "rename" and step.args[2] != 0 and mine == Failed("EINVAL")
        ),
    ),
]


class Known:
    """What of the list concerns a subject with these *tags*."""

    def __init__(self, tags: frozenset[str]) -> None:
        self._excuses = [excuse for excuse in KNOWN if excuse.tags <= tags]
        #: How often each was needed.
        self.used: dict[str, int] = {}

    def allows(self, call: str) -> bool:
        return not any(call in excuse.without for excuse in self._excuses)

    def excuse(
        self,
        step: Step,
        mine: Any,
        theirs: Any,
        linked: bool = False,
        kinds: frozenset[int] = frozenset(),
    ) -> Excuse | None:
        """Return what excuses that the results of *step* differ, if anything does.

        *linked*: it is about a file with several names.  *kinds*: the types of what it is about.
        """
        for excuse in self._excuses:
            if (excuse.linked and not linked) or (excuse.kinds and not excuse.kinds & kinds):
                continue
            if excuse.applies is not None and excuse.applies(step, mine, theirs):
                self.used[excuse.why] = self.used.get(excuse.why, 0) + 1
                return excuse
        return None

    def blurs_mtime(self, call: str) -> bool:
        return any(call in excuse.blurs_mtime for excuse in self._excuses)

    @property
    def minds_names(self) -> bool:
        return any(excuse.linked for excuse in self._excuses)

    @property
    def loses_any(self) -> bool:
        return any(excuse.loses for excuse in self._excuses)

    def loses(self, error: object) -> bool:
        return isinstance(error, Failed) and any(
            error.errno in excuse.loses for excuse in self._excuses
        )

    def skips(self, step: Step, linked: bool) -> bool:
        return any(
            excuse.skips is not None and excuse.skips(step, linked) for excuse in self._excuses
        )

    def is_calm(self, call: str) -> bool:
        return any(call in excuse.calm for excuse in self._excuses)

    def retries(self, call: str) -> bool:
        return any(call in excuse.retried for excuse in self._excuses)

    def clears_set_id(self, call: str) -> bool:
        return any(call in excuse.clears_set_id for excuse in self._excuses)

    @property
    def ticks(self) -> bool:
        return any(excuse.ticks for excuse in self._excuses)

    @property
    def delays(self) -> bool:
        return any(excuse.delays for excuse in self._excuses)

    def has_time_of_its_own(self, which: str, kind: int) -> bool:
        return stat.S_ISREG(kind) and any(which in excuse.own_times for excuse in self._excuses)

    def ignores_time(self, which: str, kind: int) -> bool:
        return any(
            which in excuse.times and (not excuse.types or stat.S_IFMT(kind) in excuse.types)
            for excuse in self._excuses
        )
