# SPDX-License-Identifier: MIT
"""What mount(8) and /etc/fstab say to a mount helper, in xloop's words: :func:`understand`.

Owns the one table (:data:`GENERIC`) of the options that belong to mount(8) and not to xloop, and what
becomes of each; how an option string of mount(8) is split; what of a mount a remount can change.  Does
not own xloop's own options (:mod:`xloop.options`), nor the helper: :mod:`xloop.cli.mount_helper`.

mount(8) hands nearly everything on that stands in a line of fstab, its own affairs included.  An
option that changes what the mount does is honoured or refused.  One that is only for somebody else
to read is dropped, and why it may be is said in the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final, NamedTuple

from xloop.errors import OptionError
from xloop.options import TABLE, MountOptions, fields_of, with_fields

__all__ = [
    "GENERIC",
    "Fate",
    "Generic",
    "Wanted",
    "changed",
    "fixed_by_mounting",
    "path_of",
    "understand",
]


class Fate(Enum):
    """What becomes of an option that is not xloop's own."""

    HONOURED = "honoured"
    DROPPED = "dropped"  #: it is not about what the mount does
    REFUSED = "refused"


class Generic(NamedTuple):
    """One row of the table: options of mount(8) with the same fate."""

    #: As they are written; ``name=`` takes a value, ``x-*`` stands for all that begin so.
    words: tuple[str, ...]
    fate: Fate
    why: str


#: Every option of mount(8) that is not in xloop.options.TABLE.
GENERIC: Final[tuple[Generic, ...]] = (
    Generic(("remount",), Fate.HONOURED, "changes the mount that is there"),
    Generic(("nofail",), Fate.HONOURED, "a source that does not exist is no failure: status 0"),
    Generic(
        ("norelatime", "nostrictatime"),
        Fate.HONOURED,
        "takes back relatime, strictatime: access times move as the kernel has it",
    ),
    Generic(
        ("backend=",), Fate.HONOURED, "as --backend of xloop mount: an option of these helpers"
    ),
    Generic(
        ("defaults",),
        Fate.DROPPED,
        "stands for the file system's defaults; xloop's are nosuid and nodev: see above",
    ),
    Generic(("auto", "noauto"), Fate.DROPPED, "tells mount -a which lines are its own"),
    Generic(
        ("user", "user=", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup"),
        Fate.DROPPED,
        "tells mount(8) who may mount; it has decided, and added the noexec,nosuid,nodev that it implies",
    ),
    Generic(("_netdev",), Fate.DROPPED, "tells systemd and init scripts when to mount"),
    Generic(("comment=", "x-*", "X-*"), Fate.DROPPED, "for other programs that read fstab"),
    Generic(("helper=", "uhelper="), Fate.DROPPED, "tells umount(8) which helper to call"),
    Generic(("silent", "loud"), Fate.DROPPED, "about kernel messages, of which FUSE has none"),
    Generic(
        ("lazytime", "nolazytime"),
        Fate.DROPPED,
        "the mount of the source decides when times reach its disk; xloop holds none back",
    ),
    Generic(("noiversion", "nomand"), Fate.DROPPED, "it is so anyway"),
    Generic(
        ("rootmode=", "user_id=", "group_id=", "blksize=", "seclabel"),
        Fate.DROPPED,
        "the kernel's own words in its table of mounts, from where mount(8) takes them to remount",
    ),
    Generic(("iversion",), Fate.REFUSED, "FUSE has no change counter: leave it out"),
    Generic(("mand",), Fate.REFUSED, "Linux has no mandatory locks any more: leave it out"),
    Generic(
        ("bind", "rbind", "move"),
        Fate.REFUSED,
        "that is no mount of xloop: call mount without a type",
    ),
    Generic(
        (
            *("shared", "rshared", "slave", "rslave"),
            *("private", "rprivate", "unbindable", "runbindable"),
        ),
        Fate.REFUSED,
        "mount(8) does that itself, after the helper: call mount(8), or mount --make-...",
    ),
    Generic(
        ("loop", "loop=", "offset=", "sizelimit=", "encryption=", "verity.*"),
        Fate.REFUSED,
        "xloop shows a directory, and no image of a disk: mount that one, and show where it is mounted",
    ),
    Generic(
        ("setuid=", "drop_privileges"),
        Fate.REFUSED,
        "mount.fuse's own: let the user mount (user in fstab), or a service with User= (docs/fstab.md)",
    ),
)

_WORDS: Final = {word: row for row in GENERIC for word in row.words if not word.endswith("*")}
_PREFIXES: Final = {word[:-1]: row for row in GENERIC for word in row.words if word.endswith("*")}
_OWN: Final = frozenset(
    {word for option in TABLE for word in option.words}
    | {f"{option.key}=" for option in TABLE if option.key}
)

#: The prefix of a source in the old notation of mount.fuse: TYPE#SOURCE.
_PREFIX: Final = "xloop#"

#: What can be changed of a mount that is there: flags of the kernel.
_CHANGEABLE: Final = frozenset(
    {"read_only", "dev", "suid", "exec", "symfollow", "sync", "atime", "nodiratime"}
)


class Wanted(NamedTuple):
    """What an option string of mount(8) asks of xloop."""

    #: The fields that the string sets.
    fields: Mapping[str, object]
    #: All of them.
    options: MountOptions
    backend: str | None
    remount: bool
    nofail: bool
    #: What was not understood, and ignored because that was wished (mount -s).
    ignored: tuple[str, ...]


def understand(strings: list[str], *, sloppy: bool = False) -> Wanted:
    """Return what the -o *strings*, as mount(8) gives them to a helper, ask for.

    A later word wins.  A value in double quotes may hold commas, as mount(8) has it, and so may one
    with backslashes before them, as xloop has it.  OptionError: an option is unknown or cannot be
    honoured, which is ignored if *sloppy*; or malformed, or contradicts another.
    """
    own: list[str] = []
    seen: set[str] = set()
    backend: str | None = None
    ignored: list[str] = []
    for item in (item for string in strings for item in _split(string)):
        name, equals, value = item.partition("=")
        row = _row(name, bool(equals))
        if name + equals in _OWN:
            own.append(item)
        elif row is None or row.fate is Fate.REFUSED:
            if not sloppy:
                _refuse(name, item, row)
            ignored.append(item)
        elif name == "backend":
            backend = value
        elif name in ("norelatime", "nostrictatime"):
            own = [word for word in own if word != name[2:]]
        elif row.fate is Fate.HONOURED:
            seen.add(name)
    fields = fields_of(own)
    return Wanted(
        fields,
        with_fields(MountOptions(), fields),
        backend,
        "remount" in seen,
        "nofail" in seen,
        tuple(ignored),
    )


def _row(name: str, has_value: bool) -> Generic | None:
    for prefix, row in _PREFIXES.items():
        if name.startswith(prefix):
            return row
    return _WORDS.get(f"{name}=" if has_value else name)


def _refuse(name: str, item: str, row: Generic | None) -> None:
    if row is None:
        fields_of([item])  # xloop's own words for what is unknown, or takes no value, or needs one
        raise AssertionError(f"{item!r} is an option of xloop, but not in its table")
    raise OptionError(f"option '{name}' cannot be honoured: {row.why}")


def _split(string: str) -> Iterator[str]:
    """Yield the items of an option string of mount(8), in xloop's notation for commas in a value."""
    item: list[str] = []
    quoted = escaped = False
    for char in string:
        if char == '"' and not escaped:
            quoted = not quoted
            continue
        if char == "," and not escaped:
            if not quoted:
                if item:
                    yield "".join(item)
                item.clear()
                continue
            item.append("\\")
        item.append(char)
        escaped = char == "\\" and not escaped
    if quoted:
        raise OptionError(f"the quotes in the options {string!r} are not closed")
    if item:
        yield "".join(item)


def path_of(spec: str) -> str:
    """Return the path that the source *spec* of a line in fstab means: it may be ``xloop#PATH``."""
    return spec.removeprefix(_PREFIX)


def fixed_by_mounting(wanted: Wanted, current: Mapping[str, object]) -> list[str]:
    """Return the fields that *wanted* sets, no remount can change, and are something else by now.

    *current*: those fields of the mount that are known.
    """
    fixed = [
        field
        for field, value in wanted.fields.items()
        if field in current and field not in _CHANGEABLE and value != current[field]
    ]
    # The other two are one to xloop.  noatime is not: the server has opened the source's files so.
    if "atime" in wanted.fields and "atime" in current:
        if (wanted.fields["atime"] == "noatime") != (current["atime"] == "noatime"):
            fixed.append("atime")
    return fixed


def changed(current: MountOptions, wanted: Wanted) -> MountOptions:
    """Return what *current*, the options of a mount, are after it was remounted as *wanted*."""
    fields = _CHANGEABLE
    if not {"atime", "nodiratime"} & wanted.fields.keys():
        fields -= {"atime", "nodiratime"}  # the kernel leaves those two as they are
    return with_fields(current, {field: getattr(wanted.options, field) for field in fields})
