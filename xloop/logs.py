# SPDX-License-Identifier: MIT
"""Where a server writes what it has to say: stderr, a file, journald or syslog.

Owns the places, the form of a line in each, and opening a file again when it was rotated.  Does not own
when that is (:mod:`xloop.serving` hears the signal), nor what is said, which goes through :mod:`logging`.

Handlers are made in the process that serves: one that was inherited would hold descriptors that a server
in the background has closed.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import Final, NamedTuple, TextIO

from xloop.errors import MountError, OptionError
from xloop.host import system_log

__all__ = ["WORDS", "Log", "default_file", "parse", "start"]

#: What may be said in the place of a file.
WORDS: Final = ("stderr", "file", "journald", "syslog")

_PROGRAM: Final = "xloop"


class Log(NamedTuple):
    """A place for the log.  Pickled: a server may have to be told of it."""

    kind: str  #: one of WORDS
    path: str = ""  #: of the file
    level: int = logging.INFO  #: of what xloop says; others are heard from WARNING on


def default_file() -> str:
    """Return the file that ``file`` stands for."""
    import platformdirs  # here: only who asks for it must know

    return os.path.join(platformdirs.user_log_dir(_PROGRAM, False), "xloop.log")


def parse(text: str) -> Log:
    """Return the place that *text* means: one of WORDS, or the path of a file.  OptionError for none."""
    if text == "file":
        return Log("file", default_file())
    if text in WORDS:
        return Log(text)
    if not any(mark in text for mark in (os.sep, os.altsep) if mark):
        from xloop.options import nearest

        raise OptionError(
            f"--log: {text!r} is none of {', '.join(WORDS)}{nearest(text, WORDS)}",
            f"a file is written with its directory: ./{text}",
        )
    return Log("file", os.path.abspath(text))


def start(log: Log) -> Callable[[], None] | None:
    """Have all of this process's log go to *log*, and nowhere else.

    Return what opens the file again, to be called when it was rotated; None where there is none.
    MountError: nothing can be written there.
    """
    handler = _handler(log)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    logging.getLogger(_PROGRAM).setLevel(log.level)
    return handler.reopen if isinstance(handler, _File) else None


def _handler(log: Log) -> logging.Handler:
    handler: logging.Handler
    if log.kind == "file":
        handler = _File(log.path)
        head = f"%(asctime)s {_PROGRAM}[%(process)d] %(levelname)s: "
    elif log.kind == "journald":
        _check_heard("journald", system_log.JOURNAL)
        handler = _Journal(system_log.JOURNAL)
        head = ""
    elif log.kind == "syslog":
        _check_heard("syslog", system_log.SYSLOG)
        handler = _syslog(system_log.SYSLOG)
        head = f"{_PROGRAM}[%(process)d]: "
    else:
        handler = logging.StreamHandler()
        head = f"{_PROGRAM}: "
    handler.setFormatter(_Formatter(head + "%(message)s"))
    return handler


class _Formatter(logging.Formatter):
    """Says who speaks once, and nothing that an encoder would refuse: names may be any bytes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        record.message = record.message.removeprefix(f"{_PROGRAM}: ")
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode("utf-8", "backslashreplace").decode()


class _File(logging.StreamHandler[TextIO]):
    """Appends to a file, each record in one write: several servers may share it."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            if path == default_file():
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            super().__init__(self._opened())
        except OSError as exc:
            raise MountError(
                f"log {path!r} cannot be written: {exc.strerror}", "--log FILE takes another file"
            ) from exc

    def _opened(self) -> TextIO:
        # Only for its owner: names of files are nobody else's business.
        return open(
            self._path,
            "a",
            encoding="utf-8",
            opener=lambda path, flags: os.open(path, flags, 0o600),
        )

    def reopen(self) -> None:
        """Go on in what has the file's name now; in the old file, if there is no new one to be had."""
        try:
            stream = self._opened()
        except OSError as exc:
            logging.getLogger(_PROGRAM).warning(
                "log %r cannot be opened again: %s", self._path, exc.strerror
            )
            return
        old = self.setStream(stream)
        if old is not None:
            old.close()

    def close(self) -> None:
        self.stream.close()
        super().close()


class _Journal(logging.Handler):
    """Speaks the protocol of journald: one datagram of fields for each record.

    https://systemd.io/JOURNAL_NATIVE_PROTOCOL
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._socket = system_log.datagrams()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            # Without a connection, so that one that was started anew hears the next record.  What is too
            # long for a datagram loses its end: there is no memory file for a line in a log.
            for most in (len(text), 100_000, 2_000):
                try:
                    self._socket.sendto(self._datagram(record, text[:most]), self._path)
                    return
                except OSError as exc:
                    if exc.errno != errno.EMSGSIZE:
                        raise
        except Exception:  # noqa: BLE001  # as all handlers do: what cannot be logged must harm nothing
            self.handleError(record)

    def _datagram(self, record: logging.LogRecord, text: str) -> bytes:
        priority = next(
            (priority for level, priority in _PRIORITIES if record.levelno >= level), "7"
        )
        fields = {
            "MESSAGE": text,
            "PRIORITY": priority,
            "SYSLOG_IDENTIFIER": _PROGRAM,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
        }
        return b"".join(map(_field, fields, fields.values()))

    def close(self) -> None:
        self._socket.close()
        super().close()


#: Of syslog(3), from the worst down.
_PRIORITIES: Final = (
    (logging.CRITICAL, "2"),
    (logging.ERROR, "3"),
    (logging.WARNING, "4"),
    (logging.INFO, "6"),
)


def _field(name: str, text: str) -> bytes:
    value = text.encode("utf-8", "backslashreplace")
    if b"\n" in value:  # then its length is told before
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def _syslog(path: str) -> logging.Handler:
    from copy import copy
    from logging.handlers import SysLogHandler  # here: other logs need none of what it imports

    class Syslog(SysLogHandler):
        """Sends each line by itself: a syslog would write a line's end into the line, as #012."""

        def emit(self, record: logging.LogRecord) -> None:
            one = copy(record)
            one.args = one.exc_info = one.exc_text = one.stack_info = None
            head = _Formatter("%(message)s")
            for one.msg in head.format(record).splitlines():
                super().emit(one)

    handler = Syslog(path, SysLogHandler.LOG_DAEMON)
    handler.append_nul = False  # each datagram is one message
    return handler


def _check_heard(who: str, path: str) -> None:
    """Make sure that somebody listens: later, a log that nobody hears would harm nothing."""
    if not path:
        raise MountError(f"there is no {who} on this system", _INSTEAD)
    try:
        system_log.check_heard(path)
    except OSError as exc:
        raise MountError(
            f"there is no {who} here: nobody listens at {path!r} ({exc.strerror})", _INSTEAD
        ) from exc


_INSTEAD: Final = "--log FILE writes to a file"
