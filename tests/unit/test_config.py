# SPDX-License-Identifier: MIT
"""The file of named mounts: what it means, and on which line a person is told of a mistake."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from xloop import config
from xloop.config import NamedMount, load, parse
from xloop.errors import ConfigError

HOME = os.path.expanduser("~")


def read(text: str) -> dict[str, NamedMount]:
    return parse(textwrap.dedent(text).encode(), "c.toml")


def refused(text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as info:
        parse(text if isinstance(text, bytes) else textwrap.dedent(text).encode(), "c.toml")
    return info.value


def test_a_mount_has_a_source_a_mountpoint_options_and_a_backend() -> None:
    assert read("""
        [mounts.music]
        source = "/srv/music"
        mountpoint = "~/music"
        options = "ro,noexec"
        backend = "devfuse"

        [mounts.other-1]
        source = "~"
        mountpoint = "/mnt/x"
        options = ["ro", "attr_timeout=0.5,noexec", 'fsname=a\\,b']
    """) == {
        "music": NamedMount("music", "/srv/music", f"{HOME}/music", ("ro,noexec",), "devfuse"),
        "other-1": NamedMount(
            "other-1", HOME, "/mnt/x", ("ro", "attr_timeout=0.5,noexec", "fsname=a\\,b"), "auto"
        ),
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "[mounts]\n", "\ufeff[mounts]\r\n"])
def test_a_file_may_name_nothing(text: str) -> None:
    assert parse(text.encode(), "c.toml") == {}


@pytest.mark.parametrize(
    "text",
    [
        'mounts.a.source = "/s"\nmounts.a.mountpoint = "/m"',
        'mounts.a = { source = "/s", mountpoint = "/m" }',
        "[mounts]\n\"a\" = { 'source' = '/s', \"mountpoint\" = '''/m''' }",
        '[ mounts . "a" ]\nsource = """\\\n  /s"""\nmountpoint = "/m"',
    ],
)
def test_keys_and_strings_may_be_written_in_every_way_that_toml_has(text: str) -> None:
    assert parse(text.encode(), "c.toml") == {"a": NamedMount("a", "/s", "/m", (), "auto")}


M = '[mounts.a]\nsource = "/s"\nmountpoint = "/m"\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        # What tomllib says, with its line.
        (M + "options = \n", 4, "not TOML: Invalid value, in column 11"),
        (M + "[mounts.a]\n", 4, "not TOML: Cannot declare"),
        (M + 'source = "/x"\n', 4, "not TOML: Cannot overwrite a value"),
        (M + 'options = ["ro",\n"x"\n\n', 5, "not TOML: Unclosed array (at end of document)"),
        (M.encode() + b'options = "\xff"\n', 4, "this is not UTF-8"),
        # Keys.
        ("\n\n[mount.a]\n", 3, "unknown key 'mount'; did you mean 'mounts'?\nknown here: mounts"),
        (
            M + "# x\noption = 'ro'\n",
            5,
            "unknown key 'option' in [mounts.a]; did you mean 'options'?\n"
            "known here: source, mountpoint, options, backend",
        ),
        (M + "zzzz = 1\n", 4, "unknown key 'zzzz' in [mounts.a]\n"),
        (M + '\n"mount point" = 1\n', 5, "unknown key 'mount point'"),
        (M + 'mounts.a.x = 1\n[mounts.b."x\\ty"]\nz=1\n', 4, "unknown key 'mounts' in [mounts.a]"),
        (
            'mounts.a.source="/s"\nmounts.a.mountpoint="/m"\nmounts.a.sorce=1',
            3,
            "unknown key 'sorce'",
        ),
        ('[mounts]\na.source="/s"\n\na = {}\n'.replace("\na = {}", ""), 2, "has no mountpoint"),
        ("[mounts.a]\nsource = '''\n/s\n\n'''\nsuorce = 1\nmountpoint='/m'", 6, "'suorce'"),
        ("[mounts.a]\nsource = '/s # [no'\nmountpoint='/m]'\nx=1", 4, "unknown key 'x'"),
        ("[mounts]\n\na = {source='/s', mountpoint='/m', sorce='/t'}", 3, "unknown key 'sorce'"),
        # Names.
        (
            "\n[mounts.'a/b']\nsource='/s'\nmountpoint='/m'",
            2,
            "'a/b' cannot be the name of a mount\n",
        ),
        (
            "[mounts.'']\nsource='/s'\nmountpoint='/m'",
            1,
            "'' cannot be the name of a mount\na name has",
        ),
        ("[mounts.'-o']\nsource='/s'\nmountpoint='/m'", 1, "'-o' cannot be the name of a mount"),
        # What must be there, and of which type.
        (
            "\n[mounts.a]\nsource='/s'\n",
            2,
            '[mounts.a] has no mountpoint\nwrite: mountpoint = "/..."',
        ),
        ("[mounts.a]\nmountpoint='/s'\n", 1, "[mounts.a] has no source"),
        ("\nmounts = 1", 2, "mounts is a number, not a table\nwrite: [mounts.NAME]"),
        ("[[mounts]]\n", 1, "mounts is an array, not a table"),
        ("[mounts]\na = 'x'", 2, "mounts.a is a string, not a table"),
        ("[mounts.a]\nsource = 1\nmountpoint='/m'", 2, "source is a number, not a string"),
        ("[mounts.a]\nsource='/s'\nmountpoint=['/m']", 3, "mountpoint is an array, not a string"),
        (M + "backend = true", 4, "backend is true or false, not a string"),
        (M + "backend = 2020-01-01", 4, "backend is a date or time, not a string"),
        (M + "[mounts.a.options]\nro=true\n", 4, "options is a table, not a string or an array"),
        (
            M + "options = ['ro', 1]\n",
            4,
            'options is an array, not a string or an array of strings\nas for -o: options = "ro,noexec"',
        ),
        # Values.
        (M + 'options = "ro,noexce"\n', 4, "unknown option 'noexce'; did you mean 'noexec'?"),
        (M + "options = [\n  'ro',\n\n  'rw,ax', # x\n  'nodev',\n]\n", 7, "unknown option 'ax'"),
        (M + "options = [ 'ro',\n'''\nax''']\n", 6, "unknown option '\\nax'".replace("\\n", "")),
        (M + "options = [ 'ro',\n  'ax']\n", 5, "unknown option 'ax'"),
        (
            "mounts.a.options = [\n'ax',\n]\nmounts.a.source='/s'\nmounts.a.mountpoint='/m'",
            2,
            "'ax'",
        ),
        ("mounts.a = {source='/s', mountpoint='/m', options = [\n'ro',\n 'ax' ]}", 1, "'ax'"),
        (M + 'options = "attr_timeout=x"\n', 4, "option 'attr_timeout' takes seconds"),
        (
            M + "options = [\n'allow_other',\n'allow_root']",
            4,
            "'allow_other' and 'allow_root' contradict",
        ),
        (M + "backend = 'devfuze'\n", 4, "there is no backend 'devfuze'; did you mean 'devfuse'?"),
        ("[mounts.a]\nsource=''\nmountpoint='/m'", 2, "source is empty"),
        (
            "[mounts.a]\nsource='/s'\nmountpoint='m'",
            3,
            "mountpoint 'm' is relative, and this file does not say to what\nwrite it from / or ~ on",
        ),
        ("[mounts.a]\nsource='./s'\nmountpoint='/m'", 2, "source './s' is relative"),
        (
            "[mounts.a]\nsource='~nobody-here/s'\nmountpoint='/m'",
            2,
            "source '~nobody-here/s': there is no home directory of that user",
        ),
        ('[mounts.a]\nsource="/\\u0000"\nmountpoint="/m"', 2, "source: a NUL byte ends a path"),
        (
            M + "[mounts.b]\nsource='/t'\nmountpoint='//x/../m/'\n",
            6,
            "mountpoint '//x/../m/' is that of 'a' too, line 3",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str | bytes, line: int, words: str) -> None:
    error = refused(text)
    assert str(error).startswith(f"'c.toml', line {line}: ")
    assert words in str(error)


def test_lines_end_as_on_windows_too() -> None:
    assert "line 5: unknown key 'x'" in str(refused(M.replace("\n", "\r\n") + "\r\nx = 1\r\n"))


def test_all_mistakes_are_told_in_the_order_of_their_lines() -> None:
    error = refused("""
        [mounts.b]
        source = 1
        mountpoint = "b"
        bakcend = "x"
        [mounts.a]
        options = ["ax",
                   "bx"]
    """)
    assert str(error).splitlines() == [
        "'c.toml', line 3: source is a number, not a string",
        "line 4: mountpoint 'b' is relative, and this file does not say to what (write it from / or ~ on)",
        "line 5: unknown key 'bakcend' in [mounts.b]; did you mean 'backend'? "
        "(known here: source, mountpoint, options, backend)",
        'line 6: [mounts.a] has no mountpoint (write: mountpoint = "/...")',
        'line 6: [mounts.a] has no source (write: source = "/...")',
        "line 7: unknown option 'ax' (`xloop mount --help` explains all of them)",
        "line 8: unknown option 'bx' (`xloop mount --help` explains all of them)",
    ]


def test_what_nests_too_deeply_is_refused() -> None:
    assert (
        str(refused("x = " + "[" * 100_000)) == "'c.toml' cannot be read: it is nested too deeply"
    )


def test_the_backend_of_another_system_is_no_mistake_of_the_file() -> None:
    for name in ("winfsp", "macfuse", "libfuse2", "auto"):
        assert read(M + f"backend = '{name}'")["a"].backend == name


# -- the file itself ------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(M)
    path.chmod(0o644)
    return path


def test_it_is_read(file: Path) -> None:
    assert list(load(str(file))) == ["a"]


def test_it_is_looked_for_where_the_users_configuration_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/over/there")
    assert config.default_path() == "/over/there/xloop/config.toml"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert config.default_path() == f"{HOME}/.config/xloop/config.toml"


def test_that_it_is_missing_or_cannot_be_read_is_told(file: Path) -> None:
    with pytest.raises(ConfigError) as info:
        load(str(file.parent / "none"))
    assert info.value.why == f"there is no file '{file.parent}/none' that would name mounts"
    assert "docs/config.md" in info.value.fix
    with pytest.raises(ConfigError) as info:
        load(str(file.parent))
    assert info.value.why == f"'{file.parent}' cannot be read: Is a directory"


@pytest.mark.parametrize(("mode", "who"), [(0o646, "everybody"), (0o664, f"group {os.getegid()}")])
def test_a_file_that_others_may_write_is_refused(file: Path, mode: int, who: str) -> None:
    os.chown(file, -1, os.getegid())
    file.chmod(mode)
    with pytest.raises(ConfigError) as info:
        load(str(file))
    assert info.value.why == (
        f"'{file}' is not used: {who} may change it, and with it what your rights show where"
    )
    assert info.value.fix == f"look through it, and then: chmod go-w {file}"
    file.chmod(0o644)
    assert load(str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives a file away")
def test_a_file_of_another_user_is_refused(file: Path) -> None:
    os.chown(file, 12345, -1)
    with pytest.raises(ConfigError) as info:
        load(str(file))
    assert "user 12345, its owner, may change it" in info.value.why
    assert info.value.fix == f"look through it, and then: chown 0 {file}"


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user, who reads a file of root's")
def test_a_file_of_roots_is_in_order() -> None:
    with pytest.raises(ConfigError) as info:
        load("/etc/passwd")
    assert "not TOML" in info.value.why


def test_a_file_that_is_too_long_is_refused(file: Path) -> None:
    file.write_text("#" * (1 << 18) + "\n")
    with pytest.raises(ConfigError) as info:
        load(str(file))
    assert info.value.why == f"'{file}' is longer than 256 KiB: that is no list of mounts"
