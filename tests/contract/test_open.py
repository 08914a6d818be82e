# SPDX-License-Identifier: MIT


"""Opening what is there: open, with every flag that means something."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import pytest

from xloop.testing import LONG_AGO, Pair, Tree

if TYPE_CHECKING:
    from tests.conftest import Need


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_a_descriptor_does_what_it_was_opened_for(pair: Pair, mode: int) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", mode))
    if mode == os.O_WRONLY:
        pair.fails(errno.EBADF, lambda t: t.read(fd[t], 10))
    else:
        assert pair.same(lambda t: t.read(fd[t], 10)) == b"data"
    if mode == os.O_RDONLY:
        pair.fails(errno.EBADF, lambda t: t.write(fd[t], b"x"))
        pair.fails(errno.EINVAL, lambda t: t.ftruncate(fd[t], 0))
    else:
        assert pair.same(lambda t: t.pwrite(fd[t], b"X", 0)) == 1
    assert pair.same(lambda t: t.content(b"f")) == (b"data" if mode == os.O_RDONLY else b"Xata")


def test_open_of_what_is_not_there(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"nothing", b"dangling"))
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_PATH):
        pair.fails(errno.ENOENT, lambda t: t.open(b"nothing", flags))
        pair.fails(errno.ENOENT, lambda t: t.open(b"dangling", flags))
        pair.fails(errno.ENOTDIR, lambda t: t.open(b"f/", flags))
        pair.fails(errno.ENOTDIR, lambda t: t.open(b"f/x", flags))


def test_each_open_has_its_own_position_and_mode(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"0123456789"))
    reader = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    writer = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    another = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    assert pair.same(lambda t: t.read(reader[t], 4)) == b"0123"
    pair.same(lambda t: t.write(writer[t], b"abc"))
    assert pair.same(lambda t: t.read(another[t], 4)) == b"abc3"
    assert pair.same(lambda t: t.read(reader[t], 4)) == b"4567"
    pair.same(lambda t: t.close(writer[t]))
    pair.fails(errno.EBADF, lambda t: t.write(another[t], b"x"))


def test_a_duplicate_shares_the_position(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"0123456789"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    twin = pair.each(lambda t: t.dup(fd[t]))
    pair.same(lambda t: t.read(fd[t], 3))
    assert pair.same(lambda t: t.read(twin[t], 3)) == b"345"
    pair.same(lambda t: t.close(fd[t]))
    assert pair.same(lambda t: t.read(twin[t], 3)) == b"678"


# -- directories and links --------------------------------------------------------------------


def test_a_directory_opens_for_reading_only(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    fd = pair.each(lambda t: t.open(b"d", os.O_RDONLY))
    pair.fails(errno.EISDIR, lambda t: t.read(fd[t], 10))
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        pair.fails(errno.EISDIR, lambda t: t.open(b"d", flags))


def test_o_directory_opens_directories_only(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.symlink(b"d", b"l"))
    pair.same(lambda t: t.close(t.open(b"d", os.O_RDONLY | os.O_DIRECTORY)))
    pair.same(lambda t: t.close(t.open(b"l", os.O_RDONLY | os.O_DIRECTORY)))
    pair.fails(errno.ENOTDIR, lambda t: t.open(b"f", os.O_RDONLY | os.O_DIRECTORY))
    pair.fails(errno.ENOTDIR, lambda t: t.open(b"f", os.O_PATH | os.O_DIRECTORY))


def test_o_nofollow_does_not_open_through_a_link(pair: Pair) -> None:
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f", b"data"))
    pair.same(lambda t: t.symlink(b"d/f", b"l"))
    pair.same(lambda t: t.symlink(b"d", b"m"))
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        pair.fails(errno.ELOOP, lambda t: t.open(b"l", flags | os.O_NOFOLLOW))
    # In the middle it may be a link.
    pair.same(lambda t: t.close(t.open(b"m/f", os.O_RDONLY | os.O_NOFOLLOW)))
    pair.same(lambda t: t.close(t.open(b"d/f", os.O_RDWR | os.O_NOFOLLOW)))
    assert pair.same(lambda t: t.content(b"l")) == b"data"


def test_o_path_opens_without_opening(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", 0))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.mknod(b"fifo", stat.S_IFIFO | 0o644))
    for name in (b"f", b"fifo", b"."):
        fd = pair.each(lambda t: t.open(name, os.O_PATH))
        pair.fails(errno.EBADF, lambda t: t.read(fd[t], 1))
        pair.fails(errno.EBADF, lambda t: t.fchmod(fd[t], 0o777))
        assert pair.same(lambda t: t.fstat(fd[t]).st_ino == t.lstat(name).st_ino)
    link = pair.each(lambda t: t.open(b"l", os.O_PATH | os.O_NOFOLLOW))
    assert pair.same(lambda t: stat.S_ISLNK(t.fstat(link[t]).st_mode))


def test_open_follows_a_link(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.symlink(b"f", b"l"))
    pair.same(lambda t: t.make(b"l", b"written"))
    assert pair.same(lambda t: t.content(b"f")) == b"written"
    assert pair.same(lambda t: t.facts(b"l")).type == stat.S_IFLNK


# -- O_TRUNC, O_EXCL and the rest -------------------------------------------------------------


def test_o_trunc_empties_the_file(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    reader = pair.each(lambda t: t.open(b"f", os.O_RDONLY))
    fd = pair.each(lambda t: t.open(b"f", os.O_WRONLY | os.O_TRUNC))
    assert pair.same(lambda t: t.fstat(fd[t]).st_size) == 0
    assert pair.same(lambda t: t.lstat(b"f").st_size) == 0
    assert pair.same(lambda t: t.pread(reader[t], 10, 0)) == b""


def test_o_trunc_of_an_empty_file_moves_its_times_too(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f"))
    pair.same(lambda t: t.age(b"f"))

    def empty(t: Tree) -> None:
        t.close(t.open(b"f", os.O_WRONLY | os.O_TRUNC))

    assert pair.same(lambda t: t.moved(b"f", lambda: empty(t))) == ["mtime", "ctime"]


def test_an_open_that_fails_has_truncated_nothing(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.make(b"f", b"data"))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY):
        pair.fails(errno.EACCES, lambda t: other[t].open(b"f", flags | os.O_TRUNC))
    assert pair.same(lambda t: t.content(b"f")) == b"data"


def test_o_trunc_clears_suid_and_sgid_for_others(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", 0o6777))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.same(lambda t: t.close(other[t].open(b"f", os.O_WRONLY | os.O_TRUNC)))
    assert pair.same(lambda t: t.facts(b"f")).mode == 0o777


def test_o_excl_without_o_creat_means_nothing(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDONLY | os.O_EXCL))
    assert pair.same(lambda t: t.read(fd[t], 10)) == b"data"


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC, os.O_NONBLOCK, os.O_NOCTTY, os.O_CLOEXEC])
def test_flags_that_do_not_show_are_taken(pair: Pair, flag: int) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | flag))
    pair.same(lambda t: t.pwrite(fd[t], b"more", 4))
    assert pair.same(lambda t: t.pread(fd[t], 10, 0)) == b"datamore"


def test_o_direct_reads_and_writes_aligned_blocks(pair: Pair, need: Need) -> None:
    need.kernel("it needs aligned memory")
    need.source(
        "O_DIRECT", lambda t: t.close(t.open(b"probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    )
    import mmap

    pair.same(lambda t: t.make(b"f", b"a" * 8192))
    fd = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_DIRECT))
    aligned = mmap.mmap(-1, 4096)
    aligned.write(b"b" * 4096)
    # A page of its own: what is aligned is the memory.
    assert pair.same(lambda t: os.pwritev(fd[t], [aligned], 4096)) == 4096
    into = mmap.mmap(-1, 8192)
    assert pair.same(lambda t: os.preadv(fd[t], [into], 0)) == 8192
    assert into[:] == b"a" * 4096 + b"b" * 4096
    assert pair.same(lambda t: t.content(b"f")) == b"a" * 4096 + b"b" * 4096


def test_o_direct_and_the_page_cache_agree(pair: Pair, need: Need) -> None:
    need.kernel("there is a page cache")
    need.source(
        "O_DIRECT", lambda t: t.close(t.open(b"probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    )
    import mmap

    pair.same(lambda t: t.make(b"f", b"a" * 4096))
    cached = pair.each(lambda t: t.open(b"f", os.O_RDWR))
    direct = pair.each(lambda t: t.open(b"f", os.O_RDWR | os.O_DIRECT))
    aligned = mmap.mmap(-1, 4096)
    pair.same(lambda t: t.pwrite(cached[t], b"b" * 4096, 0))
    pair.same(lambda t: os.preadv(direct[t], [aligned], 0))
    assert aligned[:] == b"b" * 4096
    aligned[:] = b"c" * 4096
    pair.same(lambda t: os.pwritev(direct[t], [aligned], 0))
    assert pair.same(lambda t: t.pread(cached[t], 4096, 0)) == b"c" * 4096


def test_o_noatime_leaves_atime_alone(pair: Pair) -> None:
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.age(b"f"))
    pair.same(lambda t: t.with_fd(b"f", os.O_RDONLY | os.O_NOATIME, lambda fd: t.read(fd, 10)))
    assert pair.same(lambda t: t.lstat(b"f").st_atime_ns) == LONG_AGO


def test_o_noatime_is_for_the_owner(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.chmod(b".", 0o777))
    pair.same(lambda t: t.make(b"f", b"data"))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EPERM, lambda t: other[t].open(b"f", os.O_RDONLY | os.O_NOATIME))
    pair.same(lambda t: other[t].make(b"g", b"data"))
    pair.same(lambda t: t.close(other[t].open(b"g", os.O_RDONLY | os.O_NOATIME)))


# -- rights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(8))
def test_open_asks_the_mode_bits(pair: Pair, need: Need, bits: int) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chown(b"f", 1001, 1002))
    owner = pair.each(lambda t: t.as_user(1001, 9999))
    group = pair.each(lambda t: t.as_user(9999, 1002))
    extra = pair.each(lambda t: t.as_user(9999, 9999, (5, 1002)))
    other = pair.each(lambda t: t.as_user(9999, 9999))
    for shift, trees in ((6, [owner]), (3, [group, extra]), (0, [other])):
        # All others may do the opposite: the first class that fits decides.
        mode = 0o777 & ~(7 << shift) | bits << shift
        pair.same(lambda t: t.chmod(b"f", mode))
        for who in trees:
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                got = pair.either(lambda t: t.close(who[t].open(b"f", flags)))
                wanted = {os.O_RDONLY: 4, os.O_WRONLY: 2, os.O_RDWR: 6}[flags]
                assert (got is None) == (bits & wanted == wanted)


def test_open_for_an_ordinary_user_asks_the_mode_bits(pair: Pair, need: Need) -> None:
    need.ordinary_user("root may open everything")
    pair.same(lambda t: t.make(b"f", b"data"))
    for mode in (0, 0o400, 0o200, 0o600):
        pair.same(lambda t: t.chmod(b"f", mode))
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            pair.either(lambda t: t.close(t.open(b"f", flags)))
    assert pair.same(lambda t: t.chmod(b"f", 0o600)) is None


def test_a_descriptor_outlives_the_right_to_open(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.make(b"f", b"data"))
    pair.same(lambda t: t.chmod(b"f", 0o666))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    fd = pair.each(lambda t: other[t].open(b"f", os.O_RDWR))
    pair.same(lambda t: t.chmod(b"f", 0))
    assert pair.same(lambda t: other[t].pread(fd[t], 10, 0)) == b"data"
    assert pair.same(lambda t: other[t].pwrite(fd[t], b"DATA", 0)) == 4
    pair.same(lambda t: other[t].ftruncate(fd[t], 2))
    pair.fails(errno.EACCES, lambda t: other[t].open(b"f", os.O_RDONLY))
    assert pair.same(lambda t: t.content(b"f")) == b"DA"


def test_search_permission_is_needed_on_the_way(pair: Pair, need: Need) -> None:
    need.root("somebody else has to try it")
    pair.same(lambda t: t.mkdir(b"d"))
    pair.same(lambda t: t.make(b"d/f", b"data"))
    pair.same(lambda t: t.chmod(b"d", 0o700))
    other = pair.each(lambda t: t.as_user(1001, 1001))
    pair.fails(errno.EACCES, lambda t: other[t].open(b"d/f", os.O_RDONLY))
    pair.fails(errno.EACCES, lambda t: other[t].lstat(b"d/f"))
    pair.fails(errno.EACCES, lambda t: other[t].lstat(b"d/nothing"))
    pair.same(lambda t: t.chmod(b"d", 0o711))
    pair.same(lambda t: other[t].lstat(b"d/f").st_size)
    pair.fails(errno.EACCES, lambda t: other[t].listdir(b"d"))
    pair.same(lambda t: t.chmod(b"d", 0o744))
    pair.fails(errno.EACCES, lambda t: other[t].lstat(b"d/f"))
    assert pair.same(lambda t: other[t].listdir(b"d")) == [b"f"]


def test_a_program_that_runs_cannot_be_written(pair: Pair, need: Need) -> None:
    need.kernel("it is the kernel that runs programs")
    program = shutil.which("sleep")
    assert program is not None

    def run(t: Tree) -> object:
        t.make(b"sleep", FilePath(program).read_bytes(), 0o755)
        path = f"/proc/self/fd/{getattr(t, 'top')}/sleep"  # noqa: B009
        process = subprocess.Popen([path, "60"], pass_fds=[getattr(t, "top")])  # noqa: B009
        try:
            try:
                t.close(t.open(b"sleep", os.O_WRONLY))
            except OSError as error:
                return error.errno
            return None
        finally:
            process.kill()
            process.wait()

    pair.same(run)
