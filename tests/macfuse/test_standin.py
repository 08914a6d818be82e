# SPDX-License-Identifier: MIT
"""The macOS adapter under a library with macFUSE's layouts, which calls every operation of the table.

What the library saw is compared with what the source is, value by value.  Error numbers are Linux's.
"""

from __future__ import annotations

import os
import struct
from errno import EBADF, EEXIST, EINVAL, ENODATA, ENOENT, ENOTEMPTY, EOPNOTSUPP, ERANGE

import pytest

from xloop.host import host

from .support import Serve, Served

ENOTSUP = EOPNOTSUPP
FLAGS = "use_ino,readdir_ino,entry_timeout=1.000000,negative_timeout=0.000000,attr_timeout=1.000000"


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve("macfuse", "noatime,fsname=/Users/me/My\\,docs/")


def attr(mode: int, mtime: str, atime: str, served: Served) -> str:
    """Return the attributes of "old" as the library tells them."""
    st = served.before
    birth = host.statx(os.open(served.source / "new", os.O_RDONLY))  # swapped at the end
    born = f"{birth.btime}.{birth.btime_nsec:09}"
    who = f"{st.st_ino} {st.st_uid} {st.st_gid} 0"
    return f"0 {mode:o} 1 7 {mtime} {atime} {born} {who}"


def stamp(ns: int) -> str:
    return f"{ns // 10**9}.{ns % 10**9:09}"


def test_every_operation_gives_what_the_source_has(served: Served) -> None:
    log, st = served.log, served.before
    fs = os.statvfs(served.source)
    now = stamp(st.st_mtime_ns), stamp(st.st_atime_ns)
    expected = {
        # the beginning
        "mountpoint": [str(served.mountpoint)],
        "words": [
            f"-o {FLAGS},volname=My-docs,noatime,daemon_timeout=600,"
            "fsname=/Users/me/My\\,docs/,fstypename=xloop"
        ],
        "new": ["1 464"],
        "threads": ["many"],
        "want": ["cf000021"],
        "flags": ["1 1 1"],
        "null": ["1"],
        # the whole
        "statfs_x": [f"0 {fs.f_frsize} {fs.f_bsize} {fs.f_blocks} 1"],
        "statfs": [f"0 {fs.f_bsize} {fs.f_frsize} {fs.f_blocks} 255"],
        "setvolname": ["0"],
        # attributes
        "getattr": [attr(0o100644, *now, served)],
        "getattr_none": [f"{-ENOENT}"],
        "access": [f"0 {-ENOENT}"],
        "chmod": ["0"],
        "chown": ["0"],
        "utimens": ["0"],
        "getattr_utimens": [attr(0o100604, "1000000000.123456789", now[1], served)],
        "setattr_x": ["0"],
        "getattr_setattr_x": [attr(0o100640, "1100000000.000000007", now[1], served)],
        "setattr_x_more": ["0"],
        "getattr_more": [attr(0o100640, "1100000000.000000007", "1200000000.000000009", served)],
        "setattr_x_chgtime": [f"{-ENOTSUP}"],
        "setattr_x_bkuptime": [f"{-ENOTSUP}"],
        "getattr_refused": [attr(0o100640, "1100000000.000000007", "1200000000.000000009", served)],
        "getxtimes": [f"0 0.0 {attr(0, *now, served).split()[6]}"],
        "setcrtime": ["0"],
        "setchgtime": [f"{-ENOTSUP}"],
        "setbkuptime": [f"{-ENOTSUP}"],
        "chflags": ["0"],
        # directories, two entries at a time
        "opendir": ["0 1"],
        "readdir": ["0", "0", "0"],
        "entry": [". 4 1", ".. 4 1", "old 8 1"],
        "fsyncdir": ["0"],
        "releasedir": ["0"],
        # a file
        "create": ["0 1"],
        "fgetattr": ["0 100640 1 0"],
        "write": ["6", "5"],
        "read": ["11 hello world", "3 hel"],
        "flush": ["0"],
        "fsync": ["0 0"],
        "ftruncate": ["0"],
        "fallocate": [f"{-ENOTSUP} 0"],
        "allocated": ["1 5"],
        "fsetattr_x": ["0"],
        "release": ["0", "0"],
        "release_again": [f"{-EBADF}"],
        "open": ["0"],
        "truncate": ["0"],
        "open_none": [f"{-ENOENT}"],
        # names
        "symlink": ["0"],
        "readlink": ["0 old"],
        "readlink_short": ["0 ol"],
        "link": ["0"],
        "nlink": ["2"],
        "mkdir": ["0"],
        "mknod": ["0"],
        "mknod_file": ["0"],
        "rename": ["0"],
        "renamex_excl_taken": [f"{-EEXIST}"],
        "renamex_excl": ["0"],
        "renamex_swap": ["0"],
        "renamex_plain": ["0"],
        "renamex_unknown": [f"{-EINVAL}"],
        "exchange": [f"{-ENOTSUP}"],
        "unlink": ["0"],
        "rmdir_full": [f"{-ENOTEMPTY}"],
        # extended attributes
        "setxattr": ["0"],
        "setxattr_create": [f"{-EEXIST}"],
        "setxattr_replace": [f"{-ENODATA}"],
        "setxattr_position": [f"{-EINVAL}"],
        "getxattr_size": ["5"],
        "getxattr": ["5 value"],
        "getxattr_small": [f"{-ERANGE}"],
        "getxattr_position": [f"{-EINVAL}"],
        "getxattr_none": [f"{-ENODATA}"],
        "fork": ["0", "0", "0"],
        "fork_read": ["12 ABxyEF 00 tail"],
        "fork_piece": ["3 Bxy"],
        "fork_size": ["12"],
        "listxattr_size": ["1"],
        "removexattr": ["0"],
        "removexattr_none": [f"{-ENODATA}"],
        # removed while open
        "own_hidden": ["0"],
        "own_hidden_there": ["0"],
        "own_hidden_gone": ["0"],
        "setattr_x_now": ["0"],
        "setattr_x_now_is": ["1 1"],
        "hide": ["0"],
        "hide_gone": [f"{-ENOENT}"],
        "hide_getattr": ["0 0 4"],
        "hide_read": ["4 data"],
        "hide_rmdir_contents": ["0"],
        "hide_rmdir": ["0"],
        "hide_release": ["0"],
        "hide_unlink": ["0"],
        # the end
        "getattr_other": ["0"],
        "unmount": [f"{served.mountpoint} 1"],
        "destroy": ["1"],
    }
    assert sorted(log.pop("listed")) == ["com.apple.ResourceFork", "user.a"]
    assert log == expected


def test_what_was_done_is_done_in_the_source(served: Served) -> None:
    assert sorted(os.listdir(served.source)) == ["new", "old"]
    # Written as "new", renamed to "newer", swapped with "old", which was renamed to "new".
    assert (served.source / "old").read_bytes() == b"he"
    assert (served.source / "old").stat().st_mode & 0o7777 == 0o600
    assert (served.source / "new").read_bytes() == b"content"
    assert (served.source / "new").stat().st_ino == served.before.st_ino
    assert os.getxattr(served.source / "old", "user.com.apple.ResourceFork") == b"ABxyEF\0\0tail"


def test_macos_is_asked_for_birth_times_and_flags(served: Served) -> None:
    calls = served.said["calls"]
    assert [call[0] for call in calls] == ["fsetattrlist", "fchflags"] * 2
    assert [struct.unpack("=qq", bytes.fromhex(call[3])) for call in calls[::2]] == [
        (900_000_000, 5),
        (800_000_000, 6),
    ]
    assert [call[2] for call in calls[1::2]] == [0x8000, 0x8002]


def test_the_callers_are_those_that_the_library_tells_thread_by_thread(served: Served) -> None:
    assert served.said["callers"] == [[501, 20, 4711], [502, 12, 4712]]


def test_the_mount_is_announced_once_and_tells_about_itself(served: Served) -> None:
    assert served.said["announced"] == [True]
    status = served.said["status"]
    assert (status["backend"], status["version"], status["protocol"]) == ("macfuse", "2.9", "7.19")
    assert status["volume"] == "renamed"
    assert set(status["granted"]) >= {
        "RENAME_SWAP",
        "RENAME_EXCL",
        "XTIMES",
        "VOL_RENAME",
        "ALLOCATE",
    }
    assert "EXCHANGE_DATA" in status["refused"]


def test_fuse_t_is_told_in_its_own_words(serve: Serve) -> None:
    served = serve("fuse-t", "ro,threads=1,attr_timeout=5,fsname=/Users/me/src")
    assert served.said["announced"] == [True]
    (words,) = served.log["words"]
    assert words.endswith("attr_timeout=5.000000,volname=xloop-src,ro,attrcache-timeout=5")
    assert "threads" not in served.log  # fuse_loop(), not fuse_loop_mt()


def test_a_mount_that_fails_says_what_the_library_said(serve: Serve) -> None:
    said = "mount_macfuse: the file system is not available (255)"
    served = serve("macfuse", STANDIN_REFUSE=said)
    assert served.said["error"] == "MountError"
    assert "the file system is not available (255)" in served.said["why"]
    assert "System Settings" in served.said["fix"]


def test_a_mount_that_the_system_never_shows_is_given_up(serve: Serve) -> None:
    served = serve("macfuse", DRIVE_UNSEEN="1")
    assert served.said["error"] == "MountError"
    assert "gave up after the handshake" in served.said["why"]
    assert served.log["unmount"] == [f"{served.mountpoint} 1"]
    assert served.log["destroy"] == ["1"]


@pytest.mark.parametrize(
    ("backend", "word"),
    [
        *(
            ("macfuse", word)
            for word in ("passthrough", "relatime", "nodiratime", "nosymfollow", "dirsync")
        ),
        *(("macfuse", word) for word in ("max_read=8192", "threads=3", "subtype=muchtoolong")),
        *(("fuse-t", word) for word in ("allow_other", "allow_root", "noexec", "sync")),
        *(("fuse-t", word) for word in ("default_permissions", "negative_timeout=1", "subtype=x")),
    ],
)
def test_what_cannot_be_honoured_is_refused(serve: Serve, backend: str, word: str) -> None:
    served = serve(backend, word)
    assert served.said["error"] == "OptionError"
    assert word.partition("=")[0] in served.said["why"]
