# SPDX-License-Identifier: MIT
"""What the words of mount(8) become, and where its helpers are put."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from xloop import helpers
from xloop.errors import OptionError, XloopError
from xloop.fstab import GENERIC, changed, fixed_by_mounting, path_of, understand
from xloop.host import mountflags
from xloop.host.mountflags import flags_of, words_of
from xloop.options import TABLE, MountOptions

#: The maps of options in util-linux 2.38 and 2.41, libmount/src/optmap.c; and SELinux's.
OF_MOUNT = re.findall(
    r"\S+",
    """
    ro rw exec noexec suid nosuid dev nodev sync async dirsync remount bind rbind silent loud mand nomand
    atime noatime iversion noiversion diratime nodiratime relatime norelatime strictatime nostrictatime
    lazytime nolazytime unbindable runbindable private rprivate slave rslave shared rshared symfollow
    nosymfollow move
    defaults auto noauto user user= nouser users nousers owner noowner group nogroup _netdev comment= x-* X-*
    loop loop= offset= sizelimit= encryption= nofail uhelper= helper= verity.*
    context= fscontext= defcontext= rootcontext= seclabel
""",
)


def own_words() -> list[str]:
    words = [word for option in TABLE for word in option.words]
    return words + [f"{option.key}=" for option in TABLE if option.key]


def test_every_option_of_mount_has_exactly_one_place() -> None:
    generic = [word for row in GENERIC for word in row.words]
    known = generic + own_words()
    assert len(set(known)) == len(known)
    assert set(OF_MOUNT) <= set(known)
    # And the table has no others, but for those that it names as somebody else's.
    others = {"backend=", "setuid=", "drop_privileges", "blksize="}
    assert set(generic) - set(OF_MOUNT) - others == {"rootmode=", "user_id=", "group_id="}
    assert all(row.why for row in GENERIC)


@pytest.mark.parametrize(
    ("string", "fields"),
    [
        ("rw", {"read_only": False}),
        ("ro,noexec,nosuid,nodev,user,_netdev,nofail", {"read_only": True, "exec": False}),
        ("rw,user=joe,comment=a=b,x-systemd.automount,X-mount.mkdir=755,helper=x,uhelper=y", {}),
        ("relatime,norelatime", {}),
        ("noatime,norelatime", {"atime": "noatime"}),
        ("strictatime,nostrictatime,nodiratime", {"nodiratime": True}),
        ('fsname="a,b",ro', {"fsname": "a,b", "read_only": True}),
        ("fsname=a\\,b,ro", {"fsname": "a,b", "read_only": True}),
        ('context="u:r:t:s0:c1,c2"', {"context": "u:r:t:s0:c1,c2"}),
        (",,ro,", {"read_only": True}),
    ],
)
def test_words_of_mount_set_fields(string: str, fields: dict[str, object]) -> None:
    assert understand([string]).options == MountOptions(**fields)  # type: ignore[arg-type]


def test_what_is_not_an_option_of_the_mount_is_kept_apart() -> None:
    wanted = understand(["remount,nofail,backend=libfuse,ro,attr_timeout=3"])
    assert (wanted.remount, wanted.nofail, wanted.backend) == (True, True, "libfuse")
    assert wanted.fields == {"read_only": True, "attr_timeout": 3.0}
    plain = understand([])
    assert (plain.remount, plain.nofail, plain.backend, plain.fields) == (False, False, None, {})


@pytest.mark.parametrize(
    "word",
    [word.replace("*", "roothash=1").replace("=", "=1") for row in GENERIC for word in row.words]
    + ["bogus", "x=1"],
)
def test_each_word_is_understood_or_refused_with_its_reason(word: str) -> None:
    refused = {w.rstrip("=*") for row in GENERIC if row.fate.value == "refused" for w in row.words}
    name = word.partition("=")[0]
    if name in refused or name.startswith("verity.") or name in ("bogus", "x"):
        with pytest.raises(OptionError, match=name):
            understand([word])
        assert understand([f"ro,{word}"], sloppy=True).ignored == (word,)
    else:
        assert understand([word]).ignored == ()


def test_sloppy_ignores_no_mistake_in_a_known_word() -> None:
    with pytest.raises(OptionError, match="attr_timeout"):
        understand(["attr_timeout=soon"], sloppy=True)
    with pytest.raises(OptionError, match="not closed"):
        understand(['fsname="a'], sloppy=True)


def test_a_source_may_have_the_prefix_of_mount_fuse() -> None:
    assert path_of("xloop#/a#b") == "/a#b"
    assert path_of("/xloop#a") == "/xloop#a"


def test_the_lines_of_the_documentation_are_understood() -> None:
    text = (Path(__file__).parents[2] / "docs" / "fstab.md").read_text()
    lines = re.findall(r"^/\S+ +\S+ +xloop +(\S+) +0 0$", text, re.MULTILINE)
    assert len(lines) == 4
    for words in lines:
        understand([words])


def test_what_a_remount_cannot_change_is_found() -> None:
    current = {"allow_other": False, "attr_timeout": 1.0, "atime": "noatime", "read_only": False}
    for string, fixed in (
        ("ro,nosuid,noexec,sync", []),
        ("allow_other,attr_timeout=2", ["allow_other", "attr_timeout"]),
        ("attr_timeout=1.0,noatime", []),
        ("relatime", ["atime"]),
        ("entry_timeout=7", []),  # nothing is known of it
    ):
        assert fixed_by_mounting(understand([string]), current) == fixed


def test_a_remount_changes_what_it_can() -> None:
    current = MountOptions(
        read_only=True, exec=False, attr_timeout=3, atime="noatime", nodiratime=True
    )
    for string, fields in (
        ("rw", {"read_only": False, "exec": True}),
        ("ro,noexec,sync", {"sync": True}),
        ("ro,noexec,noatime", {"nodiratime": False}),
        ("ro,allow_dev,attr_timeout=3", {"dev": True, "exec": True}),
    ):
        assert changed(current, understand([string])) == replace(current, **fields)  # type: ignore[arg-type]


def test_flags_are_those_of_the_system_call() -> None:
    # sys/mount.h
    assert flags_of(MountOptions()) == 2 | 4
    everything = MountOptions(
        read_only=True,
        exec=False,
        sync=True,
        dirsync=True,
        symfollow=False,
        nodiratime=True,
        atime="noatime",
    )
    assert flags_of(everything) == 1 | 2 | 4 | 8 | 16 | 128 | 256 | 1024 | 2048
    assert flags_of(MountOptions(dev=True, suid=True, atime="relatime")) == 1 << 21
    assert flags_of(MountOptions(dev=True, suid=True, atime="strictatime")) == 1 << 24
    assert words_of(MountOptions(suid=True)) == ["nodev"]


# -- the helpers ----------------------------------------------------------------------------


@pytest.fixture
def trusted() -> None:
    """Skip where what is tested is no helper's to run: another system, or somebody's own checkout."""
    if not mountflags.CALLS_HELPERS:
        pytest.skip("helpers exist on Linux only")
    if problem := helpers.changeable():
        pytest.skip(f"no helper may run this: {problem}")


@pytest.mark.usefixtures("trusted")
def test_helpers_are_installed_again_and_removed(tmp_path: Path) -> None:
    for _ in range(2):
        paths = helpers.install(str(tmp_path))
        assert paths == [f"{tmp_path}/sbin/mount.xloop", f"{tmp_path}/sbin/mount.fuse.xloop"]
        assert stat.S_IMODE(os.stat(paths[0]).st_mode) == 0o755
        assert os.readlink(paths[1]) == "mount.xloop"
        assert sorted(os.listdir(tmp_path / "sbin")) == ["mount.fuse.xloop", "mount.xloop"]
    for path in paths:
        done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0
        assert done.stdout.startswith(f"Usage: {os.path.basename(path)} [OPTIONS] SPEC MOUNTPOINT")
    assert helpers.remove(str(tmp_path)) == paths[::-1]
    assert helpers.remove(str(tmp_path)) == []
    assert os.listdir(tmp_path / "sbin") == []


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", helpers.HELPERS)
def test_what_somebody_else_has_installed_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin" / name).write_text("#!/bin/sh\n")
    for act in (helpers.install, helpers.remove):
        with pytest.raises(XloopError, match="was not written by xloop"):
            act(str(tmp_path))
    assert (tmp_path / "sbin" / name).read_text() == "#!/bin/sh\n"
    assert os.listdir(tmp_path / "sbin") == [name]


@pytest.mark.usefixtures("trusted")
def test_a_tree_for_another_machine_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "sbin").symlink_to("/sbin")
    with pytest.raises(XloopError, match="leads out of"):
        helpers.install(str(tmp_path / "root"))


@pytest.mark.skipif(not mountflags.CALLS_HELPERS, reason="helpers exist on Linux only")
def test_what_may_not_be_a_helper_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "_what_runs", lambda: [str(tmp_path)])
    monkeypatch.setattr(helpers, "_problem", lambda path: f"{path!r} belongs to user 1234")
    with pytest.raises(XloopError, match="root would run what others can change") as info:
        helpers.install(str(tmp_path))
    assert "/opt/xloop/bin/xloop install-helpers" in info.value.fix
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not mountflags.CALLS_HELPERS, reason="helpers exist on Linux only")
def test_an_interpreter_without_xloop_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho no xloop >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(helpers.process, "interpreter", lambda: str(bare))
    with pytest.raises(XloopError, match="does not find xloop by itself: no xloop"):
        helpers.install(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can give a file away")
def test_what_others_can_change_is_not_trusted(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "python").touch(mode=0o755)
    assert helpers.changeable([str(place / "python")]) == ""
    for mode, word in ((0o775, "by its group"), (0o757, "by its group or by everybody")):
        place.chmod(mode)
        assert word in helpers.changeable([str(place / "python")])
    place.chmod(0o1777)  # as /tmp: what belongs to root there cannot be replaced
    assert helpers.changeable([str(place / "python")]) == ""
    os.chown(place / "python", 1234, 1234)
    assert "belongs to user 1234" in helpers.changeable([str(place / "python")])
    assert "belongs to user 1234" in helpers.changeable([str(place / "python" / "missing")])


def test_the_script_starts_an_isolated_interpreter() -> None:
    text = helpers.script("/a place/python")
    assert text.startswith("#!/bin/sh\n")
    assert 'exec \'/a place/python\' -I -m xloop.cli.mount_helper "$0" "$@"\n' in text
