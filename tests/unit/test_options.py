# SPDX-License-Identifier: MIT
"""What -o strings mean, and what a person reads who wrote a wrong one."""

from __future__ import annotations

import dataclasses

import pytest

from xloop.errors import OptionError
from xloop.options import TABLE, MountOptions, parse_options, spelled, with_fields


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ([], {}),
        ([""], {}),
        (["ro"], {"read_only": True}),
        (["rw"], {"read_only": False}),
        (["ro,noexec", "allow_other"], {"read_only": True, "exec": False, "allow_other": True}),
        (["default_permissions"], {"default_permissions": True}),
        (["nodefault_permissions"], {"default_permissions": False}),
        (["allow_dev,allow_suid"], {"dev": True, "suid": True}),
        (["allow_root,dev,suid"], {"allow_root": True, "dev": True, "suid": True}),
        (["noatime"], {"atime": "noatime"}),
        (["strictatime,nodiratime"], {"atime": "strictatime", "nodiratime": True}),
        (["nosymfollow"], {"symfollow": False}),
        (["context=u:r:t:s0:c1\\,c2"], {"context": "u:r:t:s0:c1,c2"}),
        (["sync,dirsync"], {"sync": True, "dirsync": True}),
        (["fsname=a=b c,subtype=my-fs"], {"fsname": "a=b c", "subtype": "my-fs"}),
        (["max_read=131072"], {"max_read": 131072}),
        (["max_read=128k"], {"max_read": 131072}),
        (["max_read=1M"], {"max_read": 1048576}),
        (["attr_timeout=0.5,entry_timeout=0"], {"attr_timeout": 0.5, "entry_timeout": 0.0}),
        (["negative_timeout=60"], {"negative_timeout": 60.0}),
        (["passthrough"], {"passthrough": True}),
        (["passthrough=on"], {"passthrough": True}),
        (["nopassthrough"], {"passthrough": False}),
        (["passthrough=off"], {"passthrough": False}),
        (["nopassthrough,passthrough=auto"], {"passthrough": None}),
        (["writeback"], {"writeback": True}),
        (["writeback,nowriteback,passthrough"], {"passthrough": True}),
        (["threads=4"], {"max_threads": 4}),
        (["poll=0"], {"poll": 0}),
    ],
)
def test_words_set_fields(words: list[str], fields: dict[str, object]) -> None:
    assert parse_options(words) == with_fields(MountOptions(), fields)


def test_a_later_word_wins_over_an_earlier_one_about_the_same_thing() -> None:
    assert not parse_options(["ro", "rw"]).read_only
    assert parse_options(["rw,ro"]).read_only
    assert parse_options(["noatime,atime"]).atime is None
    assert parse_options(["fsname=a,fsname=b"]).fsname == "b"


def test_words_change_only_what_they_say() -> None:
    base = MountOptions(read_only=True, fsname="there")
    assert parse_options(["noexec"], base) == MountOptions(
        read_only=True, fsname="there", exec=False
    )


@pytest.mark.parametrize("name", ["a,b", "a\\b", "\\", "a b\tc", "line\nbreak", "\udcff", "=,="])
def test_every_name_can_be_written_with_backslashes(name: str) -> None:
    written = name.replace("\\", "\\\\").replace(",", "\\,")
    assert parse_options([f"ro,fsname={written},noexec"]) == MountOptions(
        read_only=True, fsname=name, exec=False
    )


def test_a_backslash_before_anything_else_stands_for_itself() -> None:
    assert parse_options(["fsname=C:\\data"]).fsname == "C:\\data"
    assert parse_options(["fsname=end\\"]).fsname == "end\\"


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("alow_other", "allow_other"),
        ("readonly", None),
        ("noexce", "noexec"),
        ("fs_name=x", "fsname"),
        ("attr-timeout=1", "attr_timeout"),
        (" ro", "ro"),
    ],
)
def test_an_unknown_word_is_named_with_the_nearest_known_one(
    word: str, nearest: str | None
) -> None:
    with pytest.raises(OptionError) as info:
        parse_options([f"rw,{word}"])
    assert repr(word.partition("=")[0]) in info.value.why
    assert ("did you mean" in info.value.why) == (nearest is not None)
    assert nearest is None or f"'{nearest}'" in info.value.why
    assert "--help" in info.value.fix


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("fsname", "needs a value\nwrite fsname=NAME"),
        ("attr_timeout", "attr_timeout=SECONDS"),
        ("ro=1", "just 'ro'"),
        ("fsname=", "not empty"),
        ("attr_timeout=soon", "seconds"),
        ("attr_timeout=-1", "seconds"),
        ("attr_timeout=nan", "seconds"),
        ("entry_timeout=inf", "seconds"),
        ("negative_timeout=1e99", "seconds"),
        ("max_read=1", "4096"),
        ("max_read=many", "bytes"),
        ("max_read=-4096", "bytes"),
        ("max_read=4g", "bytes"),
        ("max_read=", "bytes"),
        ("passthrough=maybe", "auto, on, off"),
        ("threads=0", "from 1"),
        ("threads=1_0", "from 1"),
        ("threads=two", "from 1"),
        ("subtype=", "not empty"),
        ("subtype=a b", "letters"),
        ("subtype=a\\,b", "letters"),
        ("subtype=a\nb", "letters"),
        ("subtype=a/b", "letters"),
        ("fsname=a\0b", "NUL"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(word: str, expected: str) -> None:
    with pytest.raises(OptionError) as info:
        parse_options([word])
    assert f"option '{word.partition('=')[0]}'" in info.value.why
    assert expected in str(info.value)


def test_options_that_contradict_each_other_are_both_named() -> None:
    with pytest.raises(OptionError) as info:
        parse_options(["allow_other", "ro,allow_root"])
    assert "'allow_other'" in info.value.why
    assert "'allow_root'" in info.value.why


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("passthrough=on", "passthrough"),
        ("cache=coherent", "cache=coherent"),
        ("events=relay", "events=relay"),
        ("sync", "sync"),
    ],
)
def test_writes_are_not_delayed_where_that_cannot_be(word: str, named: str) -> None:
    with pytest.raises(OptionError) as info:
        parse_options([f"writeback,{word}"])
    assert info.value.why == f"options 'writeback' and '{named}' contradict each other"
    assert "leave out one of them" in info.value.fix


def test_delayed_writes_leave_nothing_to_watch_for() -> None:
    assert parse_options(["cache=auto"]).may_watch
    assert parse_options(["cache=auto"]).may_relay
    options = parse_options(["cache=auto,writeback,nopassthrough,events=auto"])
    assert not options.may_watch
    assert not options.may_relay


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"allow_other": True, "allow_root": True}, "contradict each other"),
        ({"atime": "sometimes"}, "'sometimes' is none of "),
        ({"attr_timeout": -1}, "-1 is not from 0 to "),
        ({"entry_timeout": float("nan")}, "nan is not from 0 to "),
        ({"max_read": 512}, "512 is not a number of bytes from 4096 up"),
        ({"max_threads": 0}, "option 'threads': 0 is not from 1 to "),
        ({"poll": -1}, "-1 is not a number of microseconds"),
        ({"subtype": ""}, "'subtype'"),
        ({"fsname": "a\0b"}, "a NUL byte ends a name"),
        ({"context": 'a"b'}, "a label holds no quotes"),
    ],
)
def test_wrong_options_cannot_be_made_in_python_either(
    fields: dict[str, object], words: str
) -> None:
    with pytest.raises(OptionError) as info:
        with_fields(MountOptions(), fields)
    assert words in info.value.why


def test_a_field_that_does_not_exist_is_named_with_the_nearest_that_does() -> None:
    with pytest.raises(
        TypeError, match="'readonly' is not a mount option; did you mean 'read_only'"
    ):
        with_fields(MountOptions(), {"readonly": True})


def test_the_table_covers_every_field_once() -> None:
    fields = [option.field for option in TABLE]
    assert sorted(fields) == sorted(field.name for field in dataclasses.fields(MountOptions))


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("allow_other,nodefault_permissions", "nodefault_permissions"),
        ("allow_root,nodefault_permissions", "allow_root"),
        ("allow_root", "allow_root"),
    ],
)
def test_nobody_hears_names_that_he_may_not_read(words: str, word: str) -> None:
    with pytest.raises(OptionError) as info:
        parse_options([words, "events=relay"])
    assert f"'{word}' and 'events=relay'" in info.value.why
    assert f"leave out {word}" in info.value.fix
    options = parse_options([words, "cache=coherent"])
    assert options.may_watch
    assert not options.may_relay


@pytest.mark.parametrize("words", ["", "nodefault_permissions", "allow_other"])
def test_who_may_read_them_hears_names(words: str) -> None:
    """The kernel asks whether he may, or he is alone there and hears what the source lets its user hear."""
    assert parse_options([words, "events=relay"]).may_relay
    assert parse_options([words, "cache=coherent"]).may_relay


def test_no_word_is_in_the_table_twice() -> None:
    words = [word for option in TABLE for word in option.words]
    keys = [option.key for option in TABLE if option.key]
    assert len(set(words)) == len(words)
    assert len(set(keys)) == len(keys)


def test_the_first_of_several_words_is_the_default() -> None:
    defaults = MountOptions()
    for option in TABLE:
        if len(option.words) > 1 and "Default:" not in option.help:
            first = next(iter(option.words.values()))
            assert getattr(defaults, option.field) == first, option.field


def test_what_the_help_calls_a_default_is_one() -> None:
    defaults = MountOptions()
    for option in TABLE:
        _, said, default = option.help.partition("Default: ")
        value = getattr(defaults, option.field)
        if said and value is not None:
            assert default.rstrip(".") == f"{value:g}" if isinstance(value, float) else value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ro,noexec,attr_timeout=0.25",
        "fsname=a\\,b\\\\c,entry_timeout=2",
        "nodefault_permissions,noatime,poll=0",
        "passthrough",
        "nopassthrough,threads=3,max_read=8192",
        "writeback,ro",
    ],
)
def test_options_are_spelled_as_they_are_understood(text: str) -> None:
    options = parse_options([text])
    assert parse_options([spelled(options)]) == options
    assert set(spelled(options).split(",")) == set(text.split(","))
