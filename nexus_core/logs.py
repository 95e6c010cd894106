"""Log lines on standard error, one JSON object or one line of text each.

`configure_logging` gives the runtime its `CallLog` and sends the standard `logging` module (ours and
the libraries') to the same lines. A `CallLog` does not go through `logging`, because a call takes
60 µs and a `LogRecord` a good part of that.

What a line holds may come from a guest or a caller. Every character that is not printable is
escaped, so that nobody can start a line of their own or steer a terminal; fields and lines are cut
at fixed sizes. Events, return values and headers are never logged.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO, Final, Literal, Protocol

import msgspec

from nexus_core.errors import ErrorCode
from nexus_core.result import LogRecord

MAX_FIELD_CHARS: Final = 200
MAX_MESSAGE_CHARS: Final = 8192
MAX_LINE_BYTES: Final = 32 * 1024

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "text"]
Field = str | int | bool | None

_LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}
TALKATIVE: Final = ("httpx", "httpcore")
"""Loggers held to warnings: below, they log addresses, query and all, and operators do turn levels on."""

# An escaped character takes at most 12 bytes: a message this short fits a line beside any fields.
_SHORT_MESSAGE_CHARS = 1000
_CUT = "... (cut)"


def configure_logging(level: LogLevel, form: LogFormat, stream: BinaryIO | None = None) -> CallLog:
    """Send all logging to `stream` (standard error) from `level` on, and return the runtime's log.

    The standard module's root logger is the process's own, so the last call wins.
    """
    writer = LineWriter(form, sys.stderr.buffer if stream is None else stream)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LineHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LineHandler(writer))
    root.setLevel(_LEVELS[level])
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    return CallLog(writer, level)


class Lines(Protocol):
    """Where records go, one line each."""

    def write(self, level: str, logger: str, message: str, fields: Mapping[str, Field]) -> None:
        """Write one line. `message` and string values may be hostile; keys are ours. Raises nothing."""


class LineWriter:
    """Turns a record into one line and writes it. Thread-safe; a broken stream loses lines, no calls."""

    def __init__(self, form: LogFormat, stream: BinaryIO) -> None:
        self._encode = _as_json if form == "json" else _as_text
        self._stream = stream
        self._second = 0
        self._second_text = ""

    def write(self, level: str, logger: str, message: str, fields: Mapping[str, Field]) -> None:
        """See `Lines`."""
        record: dict[str, Field] = {"time": self._now(), "level": level, "logger": logger, **fields}
        record["message"] = message
        line = bounded_line(record, self._encode)
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads our standard error any more: there is no better place to say so.
            return

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._second_text}.{int((now - second) * 1000):03d}Z"


class CallLog:
    """What the runtime says about calls. A record below the level costs one comparison."""

    def __init__(self, writer: Lines, level: LogLevel) -> None:
        self._writer = writer
        self._threshold = _LEVELS[level]

    def call(
        self,
        request_id: str,
        handler: str,
        session: str | None,
        *,
        status: str,
        code: ErrorCode | None,
        duration_us: int,
        cold_start: bool,
    ) -> None:
        """The one record of a call that has ended or been suspended; `info`, or `warning` when it failed."""
        if self._threshold > (20 if code is None else 30):
            return
        fields: dict[str, Field] = {
            "request_id": request_id,
            "handler": handler,
            "session": session,
            "status": status,
            "code": None if code is None else code.value,
            "duration_us": duration_us,
            "cold_start": cold_start,
        }
        self._writer.write("info" if code is None else "warning", "nexus.call", "call", fields)

    def handler_lines(
        self, request_id: str, handler: str, session: str | None, lines: Iterable[LogRecord]
    ) -> None:
        """What the handler logged itself, each line at its own level (an unknown one counts as `info`)."""
        fields = {"request_id": request_id, "handler": handler, "session": session}
        for line in lines:
            level = line.level if line.level in _LEVELS else "info"
            if self._threshold <= _LEVELS[level]:
                shown = "warning" if level == "warn" else level
                self._writer.write(shown, "nexus.handler", line.message, fields)

    def refusal(
        self, request_id: str, handler: str, session: str | None, *, token: str, operation: str
    ) -> None:
        """Audit record of an operation refused for want of the capability `token`. Written at every level."""
        fields = {
            "request_id": request_id,
            "handler": handler,
            "session": session,
            "token": token,
            "operation": operation,
        }
        self._writer.write("warning", "nexus.audit", "capability refused", fields)

    def failure(self, request_id: str, handler: str, session: str | None, error: BaseException) -> None:
        """The cause of an INTERNAL_ERROR, with its traceback: the only place that tells it."""
        fields = {"request_id": request_id, "handler": handler, "session": session}
        text = "".join(traceback.format_exception(error))
        self._writer.write("error", "nexus.failure", text, fields)


class _LineHandler(logging.Handler):
    """Writes the records of the standard module as lines of ours."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; one whose arguments do not fit its message is written unformatted."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's wrong log call must not end ours
            message = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message}\n{''.join(traceback.format_exception(record.exc_info[1]))}"
        self._writer.write(record.levelname.lower(), record.name, message, {})


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT


def _as_json(record: Mapping[str, Field]) -> bytes:
    if "".join([value for value in record.values() if value.__class__ is str]).isprintable():
        return msgspec.json.encode(record) + b"\n"
    # Also escapes what msgspec leaves as it is (U+2028, bidirectional marks, C1 controls) or refuses
    # (lone surrogates), so that a reader of the JSON still gets the text as it was.
    import json  # here, because few lines need it

    return json.dumps(record, separators=(",", ":")).replace("\x7f", "\\u007f").encode() + b"\n"


def bounded_line(
    record: dict[str, Field], encode: Callable[[Mapping[str, Field]], bytes] = _as_json
) -> bytes:
    """The line of a record whose texts may be hostile, as JSON unless told otherwise.

    Fields are cut in `record` itself, at `MAX_FIELD_CHARS` and its "message" at `MAX_MESSAGE_CHARS`. A
    line still longer than `MAX_LINE_BYTES` has its message cut again.
    """
    for key, value in record.items():
        if value.__class__ is str and len(value) > MAX_FIELD_CHARS:
            record[key] = _cut(value, MAX_MESSAGE_CHARS if key == "message" else MAX_FIELD_CHARS)
    line = encode(record)
    if len(line) > MAX_LINE_BYTES:
        record["message"] = _cut(str(record["message"]), _SHORT_MESSAGE_CHARS)
        line = encode(record)
    return line


def _as_text(record: Mapping[str, Field]) -> bytes:
    parts = [str(record["time"]), f"{record['level']!s:<7}".upper(), str(record["logger"])]
    parts.append(_quoted(str(record["message"])))
    for key, value in record.items():
        if key not in _TEXT_HEAD and value is not None:
            parts.append(f"{key}={_plain(value) if isinstance(value, str) else str(value).lower()}")
    return " ".join(parts).encode() + b"\n"


_TEXT_HEAD = frozenset({"time", "level", "logger", "message"})
_NEVER_PLAIN = frozenset(' "=\\')


def _plain(text: str) -> str:
    """The text as it stands when nothing in it can be taken for the end of it, else quoted."""
    plain = text.isascii() and text.isprintable() and _NEVER_PLAIN.isdisjoint(text)
    return text if plain else _quoted(text)


def _quoted(text: str) -> str:
    import json  # as above

    return json.dumps(text, ensure_ascii=not text.isprintable()).replace("\x7f", "\\u007f")
