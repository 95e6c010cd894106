"""Log lines of the function: JSON on standard output, with the keys and the shape of Powertools' Logger.

Records of the standard `logging` module go through Powertools' formatter. The runtime's own, one or more for
each call, are put together here with the same keys: Powertools takes 100 µs for a line, half of what a warm
call takes, and this 10 µs. Both kinds are cut and escaped as `nexus_core.logs` says, because what they hold
may come from a guest or a caller.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

from nexus_core.logs import TALKATIVE, Field, LogLevel, bounded_line

TRACE_VARIABLE: Final = "_X_AMZN_TRACE_ID"
"""Where Lambda's runtime client puts the trace header of each invocation."""

# On each line `cold_start` tells, as Powertools has it, of the process; a call's own is about its instance.
_RENAMED: Final = MappingProxyType({"cold_start": "instance_created"})
_QUIET: Final = (*TALKATIVE, "aws_lambda_powertools", "aws_xray_sdk", "boto3", "botocore", "urllib3")
# The client's own handler would write each record a second time, in another shape.
_RUNTIME_CLIENT: Final = "awslambdaric"


class InvocationLines:
    """Writes lines, each with the keys of the invocation under way. Thread-safe.

    A stream that nobody reads loses lines, no calls.
    """

    def __init__(self, service: str, stream: BinaryIO) -> None:
        self.formatter = LineFormatter(service)
        self._service = service
        self._stream = stream
        self._keys: Mapping[str, Field] = {"service": service}

    def begin(self, keys: Mapping[str, Field]) -> None:
        """Put these keys on each line until `end`."""
        self.formatter.clear_state()
        self.formatter.append_keys(**keys)
        trace = os.environ.get(TRACE_VARIABLE, "").partition(";")[0].removeprefix("Root=")
        about = {"service": self._service, **keys, "xray_trace_id": trace or None}
        self._keys = {key: value for key, value in about.items() if value is not None}

    def end(self) -> None:
        """Forget the invocation's keys."""
        self.formatter.clear_state()
        self._keys = {"service": self._service}

    def write(self, level: str, logger: str, message: str, fields: Mapping[str, Field]) -> None:
        """See `nexus_core.logs.Lines`. Like Powertools, it leaves out what is None."""
        record: dict[str, Field] = {
            "level": level.upper(),
            "message": message,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "logger": logger,
            **self._keys,
        }
        for key, value in fields.items():
            if value is not None:
                record[_RENAMED.get(key, key)] = value
        self.send(bounded_line(record))

    def send(self, line: bytes) -> None:
        """Write one whole line, or several, as they are."""
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads our standard output any more: there is no better place to say so.
            return


class LineFormatter(LambdaPowertoolsFormatter):
    """Powertools' formatter, but a message stays the text it is, and no text makes a line of its own."""

    def __init__(self, service: str) -> None:
        super().__init__(
            json_serializer=_serialize,
            # Powertools would show a message that is JSON as an object, and fail at one nested too deep.
            json_deserializer=str,
            use_rfc3339=True,
            utc=True,
            serialize_stacktrace=False,
            service=service,
        )

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line, without its end; a traceback becomes part of the message."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's wrong log call must not end ours
            message = str(record.msg)
        about: dict[str, Any] = {"logger": record.name}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            message = f"{message}\n{''.join(traceback.format_exception(error))}"
            about["exception_name"] = type(error).__name__
        plain = record.__dict__ | about | {"msg": message, "args": None, "exc_info": None}
        return super().format(logging.makeLogRecord(plain))


class _StandardHandler(logging.Handler):
    """Writes the records of the standard module."""

    def __init__(self, lines: InvocationLines) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(lines.formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self._lines.send(self.format(record).encode() + b"\n")


def take_over_logging(lines: InvocationLines, level: LogLevel) -> None:
    """Send all records of the standard module from `level` on to `lines`, and to nobody else of Lambda's.

    The standard module's root logger is the process's own, so the last call wins.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        theirs = type(handler).__module__.partition(".")[0] == _RUNTIME_CLIENT
        if theirs or isinstance(handler, _StandardHandler):
            root.removeHandler(handler)
    root.addHandler(_StandardHandler(lines))
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _serialize(record: Mapping[str, Any]) -> str:
    """What Powertools put together as JSON; what is no single value becomes text first."""
    plain: dict[str, Field] = {
        key: value if isinstance(value, str | int | bool) else json.dumps(value, default=str)
        for key, value in record.items()
    }
    return bounded_line(plain).decode().rstrip("\n")
