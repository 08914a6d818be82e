# SPDX-License-Identifier: MIT
"""The backends over libfuse as such: what they refuse, how they fail, what is special about them.

What a mount does is for the contract tests.  Mounts are made in processes of their own: one process has
one mfusepy, and that one library.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from libfuse.support import BOTH, ROOT, each, mounted, run
from xloop import mounts, registry
from xloop.errors import BackendUnavailable, MountError, OptionError
from xloop.options import MountOptions

# -- choosing -------------------------------------------------------------------------------


def test_the_plain_name_prefers_version_3() -> None:
    from xloop_backends.libfuse import Libfuse, Libfuse2, Libfuse3

    assert Libfuse.versions == (3, 2)
    assert Libfuse3.versions == (3,)
    assert Libfuse2.versions == (2,)
    assert [registry.load(n).name for n in ("libfuse", *BOTH)] == ["libfuse", *BOTH]


def test_auto_asks_devfuse_first() -> None:
    names = list(registry.bundled())
    assert names[0] == "devfuse"
    assert names.index("libfuse") < names.index("libfuse3")


@pytest.mark.parametrize("name", ["libfuse", *BOTH])
def test_a_library_that_is_missing_is_named_and_nothing_takes_its_place(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xloop_backends.libfuse import library

    monkeypatch.setattr(library, "find", lambda major: None)
    with pytest.raises(BackendUnavailable) as info:
        registry.choose(name)
    version = 2 if name == "libfuse2" else 3
    assert (
        info.value.why == f"backend '{name}' cannot mount here: libfuse {version} is not installed"
    )
    assert info.value.fix == f"install it: apt-get install {library.PACKAGES[version]}"


def test_version_2_is_used_where_3_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from xloop.backend import Availability
    from xloop_backends.libfuse import Libfuse, mounting

    states = {3: Availability(False, "no 3"), 2: Availability(True)}
    monkeypatch.setattr(mounting, "probe", states.__getitem__)
    assert Libfuse().probe().ok
    states[2] = Availability(False, "no 2")
    assert Libfuse().probe().why == "no 3"


def test_the_environment_names_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from xloop_backends.libfuse import library

    if (found := library.find(3)) is None:
        pytest.skip("libfuse 3 is not installed")
    monkeypatch.setenv("FUSE_LIBRARY_PATH", found)
    assert library.find(3) == found
    assert library.find(2) != found  # it is no libfuse 2, whatever the environment says
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "/no/such/library.so")
    assert library.find(3) == found


def test_a_process_has_one_library() -> None:
    from xloop_backends.libfuse import library

    if library.find(2) is None or library.find(3) is None:
        pytest.skip("libfuse 2 and libfuse 3 are not both installed")
    done = run("""
        from xloop.errors import BackendUnavailable
        from xloop_backends.libfuse.library import load
        assert load(3).fuse_version_major == 3
        try:
            load(2)
        except BackendUnavailable as exc:
            print(exc.why)
    """)
    assert done.stdout == "mfusepy is bound to libfuse 3 in this process already\n", done.stderr


def test_probing_imports_no_mfusepy() -> None:
    done = run("""
        from xloop import registry
        registry.load("libfuse").probe()
        sys.exit("mfusepy" in sys.modules)
    """)
    assert done.returncode == 0, done.stderr


# -- options and failures -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"poll": 5}, "libfuse cannot honour poll"),
        ({"cache": "coherent"}, "libfuse cannot honour cache=coherent"),
        ({"events": "relay"}, "libfuse cannot honour events=relay"),
        ({"writeback": True}, "libfuse cannot honour writeback"),
        ({"passthrough": True}, "libfuse cannot honour passthrough"),
        ({"atime": "relatime"}, "libfuse has no option relatime"),
        ({"atime": "strictatime"}, "libfuse has no option strictatime"),
        ({"nodiratime": True}, "libfuse has no option nodiratime"),
        ({"symfollow": False}, "libfuse has no option nosymfollow"),
        ({"context": "u:r:t:s0"}, "libfuse has no option context"),
    ],
)
def test_what_libfuse_cannot_do_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as info:
        registry.load("libfuse").check_options(MountOptions(**options))
    assert info.value.why.startswith(words)
    assert info.value.fix


@pytest.mark.mount
@pytest.mark.parametrize("backend", ["libfuse3"], indirect=True)
def test_the_library_tells_of_attributes_and_of_no_names(
    backend: str, places: tuple[str, str]
) -> None:
    """Why cache=coherent is refused: once this fails, it may be had."""
    done = run(
        """
        import json, os, threading
        import xloop
        from xloop import registry
        from xloop.options import MountOptions

        source, point = sys.argv[2:]
        for name in ("file", "gone"):
            open(f"{source}/{name}", "w").close()
        forever = dict(attr_timeout=3600.0, entry_timeout=3600.0, negative_timeout=3600.0)
        session = registry.load(sys.argv[1]).mount(
            xloop.Loopback(source), point, MountOptions(cache="auto", **forever)
        )
        found = {}

        def told(name):
            try:
                session.invalidate(b"/" + name.encode())
            except OSError as exc:
                return exc.errno

        def look():
            try:
                for name in ("file", "gone", "missing"):
                    os.path.lexists(f"{point}/{name}")
                os.chmod(f"{source}/file", 0o600)
                os.unlink(f"{source}/gone")
                open(f"{source}/missing", "w").close()
                found["told"] = {name: told(name) for name in ("file", "gone", "missing")}
                found["mode"] = os.stat(f"{point}/file").st_mode & 0o777
                found["missing"] = os.path.lexists(f"{point}/missing")
                found["cache"] = session.status()["cache"]
            finally:
                session.unmount()

        session.serve(threading.Thread(target=look).start)
        print(json.dumps(found))
        """,
        backend,
        *places,
    )
    found = json.loads(done.stdout)
    assert found["mode"] == 0o600, "attributes are told"
    assert found["told"] == {"file": None, "gone": None, "missing": errno.ENOENT}
    assert not found["missing"], "a name that has appeared is not"
    assert found["cache"]["mode"] == "timeout"
    assert "no call that tells the kernel of a name" in found["cache"]["not coherent"]


@each
@pytest.mark.mount
def test_the_library_s_own_words_say_why_a_mount_failed(
    backend: str, places: tuple[str, str]
) -> None:
    done = run(
        """
        import xloop
        from xloop.errors import MountError
        from xloop.options import MountOptions
        from xloop import registry
        chosen = registry.load(sys.argv[1])
        try:
            chosen.mount(xloop.Loopback(sys.argv[2]), sys.argv[3], MountOptions())
        except MountError as exc:
            print(exc.why)
        """,
        backend,
        places[0],
        "/no/such/place",
    )
    assert "'/no/such/place' cannot be mounted on: " in done.stdout, done.stderr
    assert "No such file or directory" in done.stdout
    assert not done.stderr, "what the library printed is in the error, and nowhere else"


@each
@pytest.mark.mount
def test_names_with_commas_and_backslashes_show_as_they_are(
    backend: str, places: tuple[str, str]
) -> None:
    with mounted(places, backend, fsname="a,b\\c d"):
        entry = mounts.mount_at(mounts.read_table(), places[1])
        assert entry is not None
        assert (entry.fstype, entry.source) == ("fuse.xloop", "a,b\\c d")


@each
@pytest.mark.mount
def test_status_tells_what_was_agreed_on(backend: str, places: tuple[str, str]) -> None:
    done = run(
        """
        import threading, xloop
        from xloop import registry
        from xloop.options import MountOptions
        session = registry.load(sys.argv[1]).mount(
            xloop.Loopback(sys.argv[2]), sys.argv[3], MountOptions())
        ready = threading.Event()
        thread = threading.Thread(target=session.serve, args=(ready.set,))
        thread.start()
        ready.wait(20)
        status = session.status()
        session.unmount()
        thread.join(20)
        print(status["backend"], status["version"], sorted(status["granted"])[:2], thread.is_alive())
        """,
        backend,
        *places,
    )
    name, version, *rest = done.stdout.split(" ", 2)
    assert name == backend, done.stderr
    assert version.startswith(backend[-1])
    assert rest[0].endswith("False\n")


# -- what the kernel knows ------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["libfuse3"], indirect=True)
@pytest.mark.mount
def test_the_kernel_is_made_to_forget_a_path(backend: str, places: tuple[str, str]) -> None:
    done = run(
        """
        import os, subprocess, threading, xloop
        from xloop import registry
        from xloop.options import MountOptions
        name, source, mnt = sys.argv[1:]
        open(source + "/f", "w").close()
        options = MountOptions(attr_timeout=3600, entry_timeout=3600)
        session = registry.load(name).mount(xloop.Loopback(source), mnt, options)
        ready = threading.Event()
        thread = threading.Thread(target=session.serve, args=(ready.set,))
        thread.start()
        ready.wait(20)
        def size():
            return int(subprocess.check_output(["stat", "-c", "%s", mnt + "/f"]))
        # Somebody who has it open: else the kernel may drop what it knows for want of memory.
        holder = subprocess.Popen(["sh", "-c", "exec sleep 60 <" + mnt + "/f"])
        seen = [size()]
        with open(source + "/f", "w") as f:
            f.write("12345")
        seen.append(size())
        session.invalidate(b"/f")
        seen.append(size())
        try:
            session.invalidate(b"/nobody/asked/for/it")
        except FileNotFoundError:
            seen.append("ENOENT")
        holder.kill()
        holder.wait()
        session.unmount()
        thread.join(20)
        print(seen)
        """,
        backend,
        *places,
    )
    assert done.stdout == "[0, 0, 5, 'ENOENT']\n", done.stderr


# -- what only the path-based interface can get wrong ----------------------------------------


@each
@pytest.mark.mount
def test_an_open_file_that_is_removed_leaves_no_hidden_name(
    backend: str, places: tuple[str, str]
) -> None:
    with mounted(places, backend) as (source, mnt):
        os.mkdir(mnt + "/d")
        with open(mnt + "/d/f", "w+b") as f:
            f.write(b"data")
            f.flush()
            os.unlink(mnt + "/d/f")
            assert os.listdir(mnt + "/d") == os.listdir(source + "/d") == []
            assert os.fstat(f.fileno()).st_nlink == 0
            os.fchmod(f.fileno(), 0o600)
            os.ftruncate(f.fileno(), 2)
            assert os.fstat(f.fileno()).st_size == 2
            os.rmdir(mnt + "/d")
            assert os.pread(f.fileno(), 9, 0) == b"da"
        assert os.listdir(source) == []


@each
@pytest.mark.mount
def test_a_user_s_own_hidden_names_are_ordinary_names(
    backend: str, places: tuple[str, str]
) -> None:
    name = "/.fuse_hidden0000000200000001"
    with mounted(places, backend) as (source, mnt), open(mnt + "/f", "w"):
        os.rename(mnt + "/f", mnt + name)
        assert os.listdir(source) == [name[1:]]
        os.rename(mnt + name, mnt + "/g")
        assert os.listdir(source) == ["g"]


@each
@pytest.mark.mount
def test_a_file_that_is_replaced_while_open_is_there_all_the_time(
    backend: str, places: tuple[str, str]
) -> None:
    with mounted(places, backend) as (source, mnt):
        Path(mnt, "f").write_bytes(b"old")
        with open(mnt + "/f", "rb") as old:
            Path(mnt, "new").write_bytes(b"new!")
            os.rename(mnt + "/new", mnt + "/f")
            assert os.listdir(source) == ["f"]
            assert (os.fstat(old.fileno()).st_nlink, old.read()) == (0, b"old")
        assert Path(mnt, "f").read_bytes() == b"new!"


@pytest.mark.parametrize("backend", ["libfuse3"], indirect=True)
@pytest.mark.mount
def test_what_is_changed_by_one_name_shows_under_another_at_once(
    backend: str, places: tuple[str, str]
) -> None:
    with mounted(places, backend, attr_timeout=3600, entry_timeout=3600) as (_, mnt):
        Path(mnt, "a").write_bytes(b"one")
        assert os.stat(mnt + "/a").st_nlink == 1
        os.link(mnt + "/a", mnt + "/b")
        assert os.stat(mnt + "/a").st_nlink == os.stat(mnt + "/b").st_nlink == 2
        os.chmod(mnt + "/b", 0o600)
        assert os.stat(mnt + "/a").st_mode & 0o777 == 0o600
        with open(mnt + "/b", "ab") as f:
            f.write(b" more")
        assert Path(mnt, "a").read_bytes() == b"one more"
        os.unlink(mnt + "/b")
        assert os.stat(mnt + "/a").st_nlink == 1


@each
@pytest.mark.mount
def test_the_size_of_the_file_that_was_replaced_does_not_cut_the_new_one(
    backend: str, places: tuple[str, str]
) -> None:
    # Both are one to the kernel, and the size that it was told last is the old one's.
    with mounted(places, backend, attr_timeout=3600, entry_timeout=3600) as (source, mnt):
        Path(source, "f").write_bytes(b"1")
        old = os.open(mnt + "/f", os.O_RDONLY)  # open() would ask for the size each time
        Path(source, "new").write_bytes(b"the new one")
        os.rename(source + "/new", source + "/f")
        new = os.open(mnt + "/f", os.O_RDONLY)
        seen = os.pread(new, 20, 0), os.pread(old, 20, 0)
        os.close(old)
        os.close(new)
        assert seen == (b"the new one", b"1")
        for _ in range(20):  # before and after the kernel has told that they are closed
            fd = os.open(mnt + "/f", os.O_RDONLY)
            data = os.pread(fd, 20, 0)
            os.close(fd)
            assert data == b"the new one"


@each
@pytest.mark.parametrize(
    "how", ["opened", "made", "made and renamed", "made in a renamed directory"]
)
@pytest.mark.mount
def test_the_wrong_file_is_never_changed(backend: str, how: str, places: tuple[str, str]) -> None:
    # The name leads to another file by now, and the library knows names only.
    with mounted(places, backend) as (source, mnt):
        os.mkdir(mnt + "/d")
        name = "/d/f"
        if how == "opened":
            Path(mnt + name).touch(0o644)
        with open(mnt + name, "r+b" if how == "opened" else "w+b") as f:
            if how == "made and renamed":
                os.rename(mnt + name, mnt + "/d/h")
                Path(mnt + name).touch()
                name = "/d/h"
            if how == "made in a renamed directory":
                os.rename(mnt + "/d", mnt + "/e")
                os.mkdir(mnt + "/d")
                name = "/e/f"
            os.chmod(f.fileno(), 0o604)
            assert os.stat(source + name).st_mode & 0o777 == 0o604
            if os.path.exists(mnt + "/d/f"):  # has nothing to do with it
                os.chmod(mnt + "/d/f", 0o604)
            Path(source, "g").touch(0o640)
            os.rename(source + "/g", source + name)
            with contextlib.suppress(OSError):
                os.fchmod(f.fileno(), 0o777)
            assert os.stat(source + name).st_mode & 0o777 == 0o640


# -- the layout of what passes between us and the library --------------------------------------


def _mfusepy() -> Any:
    try:
        return importlib.import_module("mfusepy")
    except OSError as exc:
        pytest.skip(f"mfusepy finds no libfuse: {exc}")


def test_attributes_are_written_where_struct_stat_has_them() -> None:
    import ctypes

    mfusepy = _mfusepy()
    from xloop.types import Attr
    from xloop_backends.libfuse.abi import attr_writer

    attr = Attr(*range(1, 16), dev=99)
    st = mfusepy.c_stat()
    ctypes.memset(ctypes.addressof(st), 0xFF, ctypes.sizeof(st))
    attr_writer(mfusepy.c_stat)(ctypes.addressof(st), attr)
    names = ("ino", "size", "blocks", "mode", "nlink", "uid", "gid", "rdev", "blksize")
    for name in names:
        assert getattr(st, f"st_{name}") == getattr(attr, name), name
    for kind in "amc":
        spec = getattr(st, f"st_{kind}timespec")
        assert (spec.tv_sec, spec.tv_nsec) == (
            getattr(attr, f"{kind}time"),
            getattr(attr, f"{kind}time_nsec"),
        )


def test_before_the_epoch_is_a_time_too() -> None:
    import ctypes

    mfusepy = _mfusepy()
    from xloop.types import Attr
    from xloop_backends.libfuse.abi import attr_writer

    st = mfusepy.c_stat()
    attr_writer(mfusepy.c_stat)(ctypes.addressof(st), Attr.make(0o100644)._replace(mtime=-5))
    assert st.st_mtimespec.tv_sec == -5


def test_changes_are_read_where_fuse_setattr_in_has_them() -> None:
    import struct

    from xloop.types import NOW
    from xloop_backends.libfuse.abi import changes

    def asked(valid: int) -> Any:
        # valid padding fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode
        # unused uid gid unused
        times = -1, 5, 7, 999_999_999, 6, 8
        numbers = (valid, 99, 1, 70, 2, *times, 0o106755, 98, 1001, 1002, 97)
        return changes(struct.pack("=IIQQQqqqIIIIIIII", *numbers))

    assert asked(0).nothing
    one = asked(1 | 8 | 16)
    assert (one.mode, one.size, one.atime, one.mtime) == (0o6755, 70, -1, None)
    assert (one.uid, one.gid, one.kill_suidgid) == (None, None, False)
    other = asked(2 | 4 | 16 | 32 | 128 | 1 << 11)
    assert (other.uid, other.gid, other.kill_suidgid) == (1001, 1002, True)
    assert other.atime is NOW
    assert other.mtime == 5_000_000_006


@each
@pytest.mark.mount
@pytest.mark.skipif(ROOT, reason="needs an ordinary user: root may give files away")
def test_a_change_of_several_attributes_that_is_refused_changes_none(
    backend: str, places: tuple[str, str]
) -> None:
    # The kernel asks for owner and mode at once: what is given away loses S_ISUID and S_ISGID.
    with mounted(places, backend) as (source, mnt):
        Path(mnt, "f").touch()
        os.chmod(mnt + "/f", 0o2770)
        with pytest.raises(PermissionError):
            os.chown(mnt + "/f", os.getuid() + 1, -1)
        assert os.stat(source + "/f").st_mode & 0o7777 == 0o2770


def test_a_mount_error_has_words_and_a_way_out() -> None:
    from xloop_backends.libfuse.mounting import refused

    error = refused(
        "fusermount3: option allow_other only allowed if 'user_allow_other' is set "
        "in /etc/fuse.conf",
        "/m",
        3,
    )
    assert isinstance(error, MountError)
    assert error.why.startswith("'/m' cannot be mounted on: option allow_other only allowed")
    assert "/etc/fuse.conf" in error.fix
    assert refused("", "/m", 2).why == "'/m' cannot be mounted on: libfuse 2 failed without a word"
