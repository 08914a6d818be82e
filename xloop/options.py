# SPDX-License-Identifier: MIT
"""What a mount can be told: :class:`MountOptions`, and how people write it down.

Owns the options, their defaults and their meaning, the one table (:data:`TABLE`) of the words
that ``-o`` knows, and which options contradict each other.  Does not own what a backend makes
of an option, nor which of them this machine can honour: that is ``Backend.check_options``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from xloop.errors import OptionError

__all__ = [
    "SELINUX",
    "TABLE",
    "MountOptions",
    "Option",
    "check",
    "fields_of",
    "nearest",
    "parse_options",
    "spelled",
    "with_fields",
]

CACHE_MODES: Final = ("none", "timeout", "coherent", "auto")

EVENT_MODES: Final = ("relay", "off", "auto")

ATIME_MODES: Final = ("relatime", "strictatime", "noatime")

#: The kernel drops a smaller max_read without a word and takes this instead.
LEAST_MAX_READ: Final = 4096

#: Longer than any mount lives, and far inside what every kernel interface can carry.
MOST_SECONDS: Final = 2**31 - 1

MOST_THREADS: Final = 1024

#: Options, and fields of the same names, that only the kernel's SELinux understands.
SELINUX: Final = ("context", "fscontext", "defcontext", "rootcontext")

#: Microseconds: as long as the longest wake-up takes, anything beyond that is burnt.
MOST_POLL: Final = 1000


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of one mount.  None stands for "the backend's own default".

    Values that contradict each other or cannot be meant raise OptionError here, so that no
    other place has to expect them.
    """

    #: Refuse every change with EROFS.
    read_only: bool = False
    #: Let all users in (root, or users where /etc/fuse.conf says user_allow_other).
    allow_other: bool = False
    #: Let root in beside the owner.
    allow_root: bool = False
    #: Let the kernel check permissions by owner, mode and ACL.  None: on if others may enter
    #: (allow_other, allow_root), off where the mount is its owner's alone and the source checks.
    default_permissions: bool | None = None
    #: Honour device nodes.  Root only; off by default, as for every mount of a user-space file system.
    dev: bool = False
    #: Honour set-user-ID and set-group-ID bits.  Root only; off by default.
    suid: bool = False
    #: Allow programs to be executed.
    exec: bool = True
    #: "relatime", "strictatime" or "noatime".  None: the kernel's default.
    atime: str | None = None
    #: Do not update access times of directories.
    nodiratime: bool = False
    #: Follow symbolic links of the mount when a path is resolved.
    symfollow: bool = True
    #: All writes at once to stable storage (mount option sync).
    sync: bool = False
    #: Changes of directories at once to stable storage.
    dirsync: bool = False
    #: SELinux: the label of everything in the mount, whatever labels the source's files have.
    context: str | None = None
    #: SELinux: the label of the file system itself.
    fscontext: str | None = None
    #: SELinux: the label of files that have none.
    defcontext: str | None = None
    #: SELinux: the label of the root of the mount.
    rootcontext: str | None = None
    #: What mount tables show as the source; None: the source's path.
    fsname: str | None = None
    #: Mount tables show the type fuse.SUBTYPE.
    subtype: str = "xloop"
    #: Most bytes in one read request; None: as many as the kernel sends.
    max_read: int | None = None
    #: Seconds for which the kernel may believe attributes without asking.
    attr_timeout: float = 1.0
    #: Seconds for which the kernel may believe that a name is there.
    entry_timeout: float = 1.0
    #: Seconds for which the kernel may believe that a name is not there.
    negative_timeout: float = 0.0
    #: How long what the kernel knows is believed: "timeout" (the three above), "none" (never), "coherent" (until
    #: it changes: the source is watched, or the mount fails), "auto" (coherent where the source can be
    #: watched, else timeout).
    cache: str = "timeout"
    #: Whether changes that others make on the source appear to those who watch the mount (inotify): "relay" (or
    #: the mount fails), "off", "auto" (where the source is watched anyway, for the cache, and it can be had).
    events: str = "auto"
    #: Let the kernel read, write and map the source's files without asking.  None: where it
    #: can be had.  True: fail the mount if it cannot.  False: never.
    passthrough: bool | None = None
    #: Let the kernel keep what is written, and write it to the source later, in few large pieces.  It then keeps
    #: the sizes and times of files by itself: what others change on the source is seen later, or lost where
    #: they write to what is being written.
    writeback: bool = False
    #: Most threads that serve; None: as many as needed up to a sane limit.
    max_threads: int | None = None
    #: Microseconds for which the server looks for the next request before it sleeps, while a CPU has nothing
    #: else to do; 0: it always sleeps; None: as long as is useful.
    poll: int | None = None
    #: Unmount when the server ends without doing so, however it ends.  Off: a dead mount makes programs
    #: fail, where an empty mountpoint would be taken for the truth (rsync --delete).
    auto_unmount: bool = False

    def __post_init__(self) -> None:
        check(self)

    @property
    def may_relay(self) -> bool:
        """Whether events are relayed if the source can be watched."""
        if self.events == "auto":
            return self.may_watch and not self.overheard
        return self.events == "relay"

    @property
    def overheard(self) -> str:
        """Why events would be told to people who may not list the directory; empty: they would not.

        Whoever wants to hear asks the kernel alone, and no server.
        """
        if self.allow_root:
            return (
                "with allow_root the kernel lets in others too, and only the server turns them away"
            )
        if self.allow_other and self.default_permissions is False:
            return "with allow_other and nodefault_permissions the kernel lets everybody watch any directory"
        return ""

    @property
    def may_watch(self) -> bool:
        """Whether the source is watched for the kernel's caches if it can be."""
        # A kernel that delays writes takes nobody's word for sizes and times, and so none of what is told.
        return self.cache in ("coherent", "auto") and not self.writeback

    def timed(self) -> MountOptions:
        """Return these options with the timeouts that follow from cache=none."""
        if self.cache != "none":
            return self
        return replace(self, attr_timeout=0.0, entry_timeout=0.0, negative_timeout=0.0)


def check(options: MountOptions) -> None:
    """Raise OptionError for options that contradict each other, or a value that cannot be meant."""
    if options.allow_other and options.allow_root:
        raise OptionError(
            "options 'allow_other' and 'allow_root' contradict each other",
            "allow_other lets everybody in, root included; allow_root nobody but root: give one of them",
        )
    if options.writeback:
        _check_writeback(options)
    if options.events == "relay" and options.overheard:
        word = "allow_root" if options.allow_root else "nodefault_permissions"
        instead = "allow_root" if options.allow_root else "nodefault_permissions or allow_other"
        raise OptionError(
            f"options '{word}' and 'events=relay' contradict each other",
            f"{options.overheard}, so it would tell them names that they may not read: "
            f"leave out {instead}, or events=relay",
        )
    if options.atime is not None and options.atime not in ATIME_MODES:
        raise OptionError(f"option 'atime': {options.atime!r} is none of {', '.join(ATIME_MODES)}")
    if options.cache not in CACHE_MODES:
        raise OptionError(f"option 'cache': {options.cache!r} is none of {', '.join(CACHE_MODES)}")
    if options.events not in EVENT_MODES:
        raise OptionError(
            f"option 'events': {options.events!r} is none of {', '.join(EVENT_MODES)}"
        )
    if options.fsname is not None and "\0" in options.fsname:
        # Everything else may stand there: the kernel escapes blanks and newlines in its
        # tables, and a backend escapes what its mount helper would split at.
        raise OptionError("option 'fsname': a NUL byte ends a name for the kernel")
    for name in SELINUX:
        label = getattr(options, name)
        if label is not None and not set('"\0').isdisjoint(label):
            # The kernel is given it in quotes, for a label may hold commas.
            raise OptionError(f"option '{name}': a label holds no quotes: {label!r}")
    _check_subtype(options.subtype)
    for name in ("attr_timeout", "entry_timeout", "negative_timeout"):
        value = getattr(options, name)
        if not 0 <= value <= MOST_SECONDS:  # "not" and not ">": NaN compares false
            raise OptionError(f"option '{name}': {value!r} is not from 0 to {MOST_SECONDS} seconds")
    if options.max_read is not None and not LEAST_MAX_READ <= options.max_read < 2**32:
        raise OptionError(
            f"option 'max_read': {options.max_read} is not a number of bytes from {LEAST_MAX_READ} up",
            "the kernel never reads less than a page at a time",
        )
    if options.max_threads is not None and not 1 <= options.max_threads <= MOST_THREADS:
        raise OptionError(
            f"option 'threads': {options.max_threads} is not from 1 to {MOST_THREADS}"
        )
    if options.poll is not None and not 0 <= options.poll <= MOST_POLL:
        raise OptionError(
            f"option 'poll': {options.poll} is not a number of microseconds from 0 to {MOST_POLL}"
        )


def _check_writeback(options: MountOptions) -> None:
    for wanted, word, why in (
        (
            options.passthrough is True,
            "passthrough",
            "the kernel either delays writes or passes them through",
        ),
        (
            options.cache == "coherent",
            "cache=coherent",
            "while it delays writes the kernel believes nobody about sizes and times",
        ),
        (
            options.events == "relay",
            "events=relay",
            "while it delays writes the kernel believes nobody about sizes and times",
        ),
        (options.sync, "sync", "a write is either delayed or waits for stable storage"),
    ):
        if wanted:
            raise OptionError(
                f"options 'writeback' and '{word}' contradict each other",
                f"{why}: leave out one of them",
            )


def _check_subtype(subtype: str) -> None:
    # fuse.SUBTYPE is a file system type: programs look for it in comma lists (mount -t a,b)
    # and in whitespace-separated tables, and search a helper /sbin/mount.fuse.SUBTYPE for it.
    if subtype.isascii() and subtype and all(c.isalnum() or c in "._+-" for c in subtype):
        return
    raise OptionError(
        f"option 'subtype': {subtype!r} cannot be part of a file system type",
        "it takes letters, digits, '.', '_', '+' and '-': "
        "tools split mount tables and type lists at anything else",
    )


class Option(NamedTuple):
    """One row of the table: a field of MountOptions, and the words that set it."""

    field: str
    help: str
    #: Words that stand alone, and what they set the field to.
    words: Mapping[str, object] = {}
    #: The word that takes a value: ``key=VALUE``.
    key: str = ""
    metavar: str = ""
    #: Turns the value into the field's; ValueError carries what was expected instead.
    convert: Callable[[str], object] | None = None

    def spelled(self) -> str:
        """Return how the option is written, for people: ``ro, rw`` or ``fsname=NAME``."""
        return ", ".join([*self.words, *([f"{self.key}={self.metavar}"] if self.key else [])])


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_SECONDS:
        raise ValueError(f"seconds, from 0 to {MOST_SECONDS}, such as 1 or 0.5")
    return value


def _count(text: str) -> int:
    # isdecimal and not int() alone: int() takes "1_000", " 7" and digits of other scripts.
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MOST_THREADS:
        raise ValueError(f"a whole number from 1 to {MOST_THREADS}")
    return int(text)


def _microseconds(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > MOST_POLL:
        raise ValueError(f"a whole number of microseconds from 0 to {MOST_POLL}")
    return int(text)


def _bytes(text: str) -> int:
    digits, factor = text, 1
    if text[-1:].lower() in ("k", "m"):
        digits, factor = text[:-1], 1024 if text[-1] in "kK" else 1024 * 1024
    if digits.isascii() and digits.isdecimal() and LEAST_MAX_READ <= int(digits) * factor < 2**32:
        return int(digits) * factor
    raise ValueError(f"bytes, at least {LEAST_MAX_READ}, such as 131072 or 128k")


def _text(text: str) -> str:
    if not text:
        raise ValueError("a name that is not empty")
    return text


def _auto_on_off(text: str) -> bool | None:
    values = {"auto": None, "on": True, "off": False}
    if text not in values:
        raise ValueError("one of auto, on, off")
    return values[text]


def _cache_mode(text: str) -> str:
    if text not in CACHE_MODES:
        raise ValueError(f"one of {', '.join(CACHE_MODES)}")
    return text


def _event_mode(text: str) -> str:
    if text not in EVENT_MODES:
        raise ValueError(f"one of {', '.join(EVENT_MODES)}")
    return text


#: Every word that -o knows.  The parser and --help are made from it.
TABLE: Final[tuple[Option, ...]] = (
    Option("read_only", "Allow changes, or refuse every one.", {"rw": False, "ro": True}),
    Option("allow_other", "Let other users in, root included.", {"allow_other": True}),
    Option("allow_root", "Let root in beside you, and nobody else.", {"allow_root": True}),
    Option(
        "default_permissions",
        "Who checks permissions: the kernel, by owner, mode and ACL, or the source alone."
        " Default: the kernel if others may enter.",
        {"default_permissions": True, "nodefault_permissions": False},
    ),
    # mount(8) takes "dev" and "suid" for the absence of an option, and before 2.39 passes neither on.
    Option(
        "dev",
        "Whether device nodes are devices. Root only.",
        {"nodev": False, "dev": True, "allow_dev": True},
    ),
    Option(
        "suid",
        "Whether set-user-ID bits count. Root only.",
        {"nosuid": False, "suid": True, "allow_suid": True},
    ),
    Option("exec", "Whether programs may be executed.", {"exec": True, "noexec": False}),
    Option(
        "atime",
        "When access times move. Default: as the kernel does.",
        {"relatime": "relatime", "strictatime": "strictatime", "noatime": "noatime", "atime": None},
    ),
    Option(
        "nodiratime",
        "Whether access times of directories move.",
        {"diratime": False, "nodiratime": True},
    ),
    Option(
        "symfollow",
        "Whether symbolic links in the mount are followed.",
        {"symfollow": True, "nosymfollow": False},
    ),
    Option(
        "sync",
        "Whether each write waits for stable storage.",
        {"async": False, "sync": True},
    ),
    Option("dirsync", "Changes of directories wait for stable storage.", {"dirsync": True}),
    *(
        Option(name, f"SELinux: the label of {what}.", key=name, metavar="LABEL", convert=_text)
        for name, what in (
            ("context", "everything in the mount"),
            ("fscontext", "the file system itself"),
            ("defcontext", "files that have none"),
            ("rootcontext", "the root of the mount"),
        )
    ),
    Option(
        "fsname",
        "What mount tables show as the source. Default: its path.",
        key="fsname",
        metavar="NAME",
        convert=_text,
    ),
    Option(
        "subtype",
        "Mount tables show the type fuse.NAME. Default: xloop.",
        key="subtype",
        metavar="NAME",
        convert=_text,
    ),
    Option(
        "max_read",
        "Most bytes in one read request (4096, 128k, 1m). Default: as the kernel likes.",
        key="max_read",
        metavar="BYTES",
        convert=_bytes,
    ),
    Option(
        "attr_timeout",
        "How long attributes are believed without asking. Default: 1.",
        key="attr_timeout",
        metavar="SECONDS",
        convert=_seconds,
    ),
    Option(
        "entry_timeout",
        "How long a name is believed to be there. Default: 1.",
        key="entry_timeout",
        metavar="SECONDS",
        convert=_seconds,
    ),
    Option(
        "negative_timeout",
        "How long a name is believed not to be there. Default: 0.",
        key="negative_timeout",
        metavar="SECONDS",
        convert=_seconds,
    ),
    Option(
        "cache",
        "How long the kernel believes what it knows: not at all, for a time, or until it changes, for which the"
        " source is watched. Default: timeout.",
        key="cache",
        metavar="none|timeout|coherent|auto",
        convert=_cache_mode,
    ),
    Option(
        "events",
        "Whether changes made on the source appear to programs that watch the mount. Default: auto, where the"
        " source is watched for the cache anyway.",
        key="events",
        metavar="relay|off|auto",
        convert=_event_mode,
    ),
    Option(
        "passthrough",
        "Let the kernel read and write the files by itself: on fails the mount where that"
        " is not to be had. Default: auto, where it can be had.",
        {"passthrough": True, "nopassthrough": False},
        key="passthrough",
        metavar="auto|on|off",
        convert=_auto_on_off,
    ),
    Option(
        "writeback",
        "Whether the kernel may keep what is written for a while: many small writes become few large ones. What"
        " others change on the source meanwhile is seen late, or lost. Without passthrough.",
        {"nowriteback": False, "writeback": True},
    ),
    Option(
        "max_threads",
        "Most threads that serve. Default: as many as needed.",
        key="threads",
        metavar="N",
        convert=_count,
    ),
    Option(
        "poll",
        "Microseconds to look for the next request before sleeping, while a CPU is idle; 0: never.",
        key="poll",
        metavar="USECS",
        convert=_microseconds,
    ),
    Option(
        "auto_unmount",
        "Unmount when the server is killed. Without it the dead mount stays, and every access fails.",
        {"auto_unmount": True},
    ),
)


def parse_options(strings: Iterable[str], base: MountOptions | None = None) -> MountOptions:
    """Return *base* changed as the -o *strings* say; each is a comma list.

    A later word wins over an earlier one about the same thing, as in mount(8): a script may
    append to what it was given (``ro`` ... ``rw``).  What cannot hold at once is an OptionError.
    A backslash takes the comma or backslash after it into a value: ``fsname=a\\,b``.
    """
    return with_fields(base or MountOptions(), fields_of(strings))


def fields_of(strings: Iterable[str]) -> dict[str, object]:
    """Return the fields of MountOptions that the -o *strings* set, as parse_options() has it."""
    fields: dict[str, object] = {}
    for string in strings:
        for item in filter(None, _split(string)):  # ",," is nothing, as for mount(8)
            field, value = _understand(item)
            fields[field] = value
    return fields


def spelled(options: MountOptions) -> str:
    """Return what makes *options* other than the default, as it is written after -o."""
    plain = MountOptions()
    items = []
    for option in TABLE:
        value = getattr(options, option.field)
        if value == getattr(plain, option.field):
            continue
        word = next((word for word, means in option.words.items() if means == value), None)
        text = str(value).removesuffix(".0").replace("\\", "\\\\").replace(",", "\\,")
        items.append(word or f"{option.key}={text}")
    return ",".join(items)


def with_fields(base: MountOptions, fields: Mapping[str, object]) -> MountOptions:
    """Return *base* with *fields* changed; TypeError names one that MountOptions does not have."""
    for name in fields:
        if name not in MountOptions.__dataclass_fields__:
            raise TypeError(
                f"{name!r} is not a mount option{nearest(name, MountOptions.__dataclass_fields__)}"
            )
    changes: dict[str, Any] = dict(fields)
    return replace(base, **changes)


def nearest(word: str, words: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the one of *words* that is like *word*, or nothing."""
    from difflib import get_close_matches  # here: slow to import, and only mistakes need it

    found = get_close_matches(word, list(words), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def _split(string: str) -> Iterator[str]:
    """Yield the items of a comma list; a backslash makes the next comma or backslash ordinary."""
    item: list[str] = []
    chars = iter(string)
    for char in chars:
        if char == "\\":
            following = next(chars, "")
            item.append(following if following in (",", "\\") and following else char + following)
        elif char == ",":
            yield "".join(item)
            item.clear()
        else:
            item.append(char)
    yield "".join(item)


def _understand(item: str) -> tuple[str, object]:
    """Return the field that *item* sets, and to what."""
    word, equals, text = item.partition("=")
    option = _BY_KEY.get(word) if equals else _BY_WORD.get(word)
    if option is None:
        raise _misunderstood(word, bool(equals))
    if not equals:
        return option.field, option.words[word]
    assert option.convert is not None  # every row with a key has one
    try:
        value = option.convert(text)
    except ValueError as exc:
        raise OptionError(f"option '{word}' takes {exc}; not {text!r}") from None
    return option.field, value


def _misunderstood(word: str, has_value: bool) -> OptionError:
    if has_value and word in _BY_WORD:
        return OptionError(f"option '{word}' takes no value", f"write just '{word}'")
    if word in _BY_KEY:
        return OptionError(
            f"option '{word}' needs a value", f"write {word}={_BY_KEY[word].metavar}"
        )
    words = {**_BY_WORD, **_BY_KEY}
    return OptionError(
        f"unknown option {word!r}{nearest(word, words)}",
        "`xloop mount --help` explains all of them",
    )


_BY_WORD: Final = {word: option for option in TABLE for word in option.words}
_BY_KEY: Final = {option.key: option for option in TABLE if option.key}
