"""Log lines: what they hold, what hostile text cannot do to them, and how the level filters."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.errors import ErrorCode
from nexus_core.logs import (
    MAX_FIELD_CHARS,
    MAX_LINE_BYTES,
    MAX_MESSAGE_CHARS,
    CallLog,
    LineWriter,
    LogLevel,
    bounded_line,
    configure_logging,
)
from nexus_core.result import LogRecord
from tests.core.log_streams import lines_of, own_logging_kept


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Give the process its own logging back."""
    with own_logging_kept("httpx", "httpcore"):
        yield


def log_call(log: CallLog, code: ErrorCode | None = None, **changes: Any) -> None:
    """Log one call, with `changes` of its names."""
    names = {"request_id": "r1", "handler": "hello", "session": "s1"} | changes
    status = "success" if code is None else "error"
    log.call(**names, status=status, code=code, duration_us=61, cold_start=True)


def test_a_call_is_one_json_line_with_what_finds_it_again() -> None:
    """Request id, handler, session, code, duration and cold start are fields of their own."""
    stream = io.BytesIO()
    log = configure_logging("info", "json", stream)
    log_call(log)
    log_call(log, ErrorCode.TIMEOUT, session=None)
    first, second = lines_of(stream)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "nexus.call",
        "message": "call",
        "request_id": "r1",
        "handler": "hello",
        "session": "s1",
        "status": "success",
        "code": None,
        "duration_us": 61,
        "cold_start": True,
    }
    assert (second["level"], second["code"], second["session"]) == ("warning", "TIMEOUT", None)


def test_a_call_as_text_is_one_readable_line() -> None:
    """The text form shows the same, without what is absent."""
    stream = io.BytesIO()
    log_call(configure_logging("info", "text", stream), ErrorCode.TIMEOUT, session=None)
    _, rest = stream.getvalue().decode().split(" ", 1)
    assert rest == (
        'WARNING nexus.call "call" request_id=r1 handler=hello status=error code=TIMEOUT'
        " duration_us=61 cold_start=true\n"
    )


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["info", "warning", "debug", "warning", "error"]),
        ("info", ["info", "warning", "warning", "error"]),
        ("warning", ["warning", "warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_decides_what_is_written(level: LogLevel, shown: list[str]) -> None:
    """Calls and handlers' lines below the level are left out."""
    stream = io.BytesIO()
    log = configure_logging(level, "json", stream)
    log_call(log)
    log_call(log, ErrorCode.TIMEOUT)
    lines = [LogRecord(level=name, message="said") for name in ("debug", "warn", "error")]
    log.handler_lines("r1", "hello", None, lines)
    assert [line["level"] for line in lines_of(stream)] == shown


def test_a_handlers_line_carries_where_it_came_from() -> None:
    """What a handler says is marked as the handler's; a level it made up counts as info."""
    stream = io.BytesIO()
    log = configure_logging("info", "json", stream)
    log.handler_lines("r1", "hello", "s1", [LogRecord(level="nonsense", message="hi")])
    [line] = lines_of(stream)
    assert (line["logger"], line["level"], line["message"]) == ("nexus.handler", "info", "hi")
    assert (line["request_id"], line["handler"], line["session"]) == ("r1", "hello", "s1")


def test_a_refusal_is_recorded_at_every_level() -> None:
    """The audit record names who tried what, and no level hides it."""
    stream = io.BytesIO()
    log = configure_logging("error", "json", stream)
    log.refusal("r1", "hello", "s1", token="state:write:total", operation="state_set")
    [line] = lines_of(stream)
    assert (line["logger"], line["token"], line["operation"]) == (
        "nexus.audit",
        "state:write:total",
        "state_set",
    )
    assert (line["request_id"], line["handler"], line["session"]) == ("r1", "hello", "s1")


def test_a_failure_tells_its_cause_under_the_request_id() -> None:
    """The traceback of an internal error is in the log, on one line."""
    stream = io.BytesIO()
    log = configure_logging("error", "json", stream)
    try:
        os.environ["NO_SUCH_NAME"]
    except KeyError as error:
        log.failure("r1", "hello", None, error)
    [line] = lines_of(stream)
    assert line["request_id"] == "r1"
    assert "KeyError: 'NO_SUCH_NAME'" in line["message"]
    assert "test_logs.py" in line["message"]


HOSTILE = 'a"b\\c\n{"level":"error"}\r\x1b[2J\x9b31m\x7f\u2028\u202e\ud800\x00end'


@pytest.mark.parametrize("form", ["json", "text"])
def test_hostile_text_stays_inside_its_field(form: Any) -> None:
    """Control characters, line ends, marks and lone surrogates are escaped in either form."""
    stream = io.BytesIO()
    log = configure_logging("info", form, stream)
    log_call(log, request_id=HOSTILE, handler=HOSTILE, session=HOSTILE)
    log.handler_lines("r1", "hello", None, [LogRecord(level="info", message=HOSTILE)])
    written = stream.getvalue().decode("ascii")
    assert written.count("\n") == 2
    assert written.replace("\n", "").isprintable()
    if form == "json":
        first, second = lines_of(stream)
        assert (first["request_id"], first["handler"], first["session"]) == (HOSTILE,) * 3
        assert second["message"] == HOSTILE


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "character", ["\n", "\r", "\0", "\x1b", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800"]
)
def test_each_hostile_character_is_escaped_on_its_own(form: Any, character: str) -> None:
    """No single character gets through because the others around it are harmless."""
    stream = io.BytesIO()
    log_call(configure_logging("info", form, stream), session=f"a{character}b")
    written = stream.getvalue().decode("ascii").removesuffix("\n")
    assert written.isprintable()
    if form == "json":
        assert json.loads(written)["session"] == f"a{character}b"


@given(st.text(alphabet=st.characters(), max_size=60), st.text(max_size=60))
def test_any_text_makes_one_printable_line_that_reads_back(message: str, field: str) -> None:
    """Whatever is logged, JSON gives the same text back and the text form keeps to its line."""
    for form in ("json", "text"):
        stream = io.BytesIO()
        LineWriter(form, stream).write("info", "test", message, {"field": field})
        line = stream.getvalue().decode()
        assert line.endswith("\n")
        assert line[:-1].isprintable()
        if form == "json":
            record = json.loads(line)
            assert (record["message"], record["field"]) == (message, field)


def test_a_text_field_cannot_pretend_to_be_another() -> None:
    """A value with a space or an equals sign is quoted in the text form."""
    stream = io.BytesIO()
    log_call(configure_logging("info", "text", stream), session="s1 handler=admin")
    assert ' session="s1 handler=admin" ' in stream.getvalue().decode()


@pytest.mark.parametrize("filler", ["x", "\n", "\U0001f600", "\x1b\U0001f600"])
def test_lines_are_bounded(filler: str) -> None:
    """The longest names and messages, however they are escaped, end up in a line of bounded bytes."""
    for form in ("json", "text"):
        stream = io.BytesIO()
        log = configure_logging("info", form, stream)
        long = filler * 100_000
        log.handler_lines(long, long, long, [LogRecord(level="info", message=long)])
        log.refusal(long, long, long, token=long, operation=long)
        for line in stream.getvalue().splitlines():
            assert len(line) <= MAX_LINE_BYTES


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_only_what_is_too_long_is_cut(extra: int) -> None:
    """A field and a message of exactly their limit stay whole; one more is cut and says so."""
    stream = io.BytesIO()
    log = configure_logging("info", "json", stream)
    message = LogRecord(level="info", message="m" * (MAX_MESSAGE_CHARS + extra))
    log.handler_lines("r" * (MAX_FIELD_CHARS + extra), "h", None, [message])
    [line] = lines_of(stream)
    assert line["request_id"].endswith("(cut)") == (extra > 0)
    assert line["message"].endswith("(cut)") == (extra > 0)
    assert len(line["request_id"]) == min(MAX_FIELD_CHARS, MAX_FIELD_CHARS + extra)
    assert len(line["message"]) == min(MAX_MESSAGE_CHARS, MAX_MESSAGE_CHARS + extra)


def test_libraries_log_through_the_same_lines() -> None:
    """A record of the standard module becomes a line of ours, traceback included, once."""
    stream = io.BytesIO()
    configure_logging("info", "json", io.BytesIO())
    configure_logging("info", "json", stream)
    library = logging.getLogger("some.library")
    library.debug("unseen")
    library.warning("found %d\nthings", 3)
    try:
        os.stat("/no/such/file")  # noqa: PTH116 - any call that raises an OSError
    except OSError:
        library.exception("failed")
    warning, failure = lines_of(stream)
    assert (warning["logger"], warning["level"], warning["message"]) == (
        "some.library",
        "warning",
        "found 3\nthings",
    )
    assert failure["message"].startswith("failed\nTraceback")
    assert "FileNotFoundError" in failure["message"]


def test_a_librarys_wrong_log_call_still_makes_a_line() -> None:
    """Arguments that do not fit the message raise nothing and lose only themselves."""
    stream = io.BytesIO()
    configure_logging("info", "json", stream)
    root = logging.getLogger()
    # The test runner's own handlers would raise.
    root.handlers[:] = [
        handler for handler in root.handlers if type(handler).__module__ == CallLog.__module__
    ]
    logging.getLogger("some.library").warning("%d things", "three")
    assert lines_of(stream)[0]["message"] == "%d things"


def test_addresses_of_requests_are_not_logged() -> None:
    """The HTTP client's own lines, which hold whole URLs, stay out even at debug."""
    stream = io.BytesIO()
    configure_logging("debug", "json", stream)
    logging.getLogger("httpx").info("HTTP Request: GET https://example.com/?token=secret")
    logging.getLogger("httpcore.connection").debug("connect")
    assert stream.getvalue() == b""


def test_a_closed_stream_costs_lines_but_no_call() -> None:
    """When the reader of standard error is gone, logging does nothing."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as pipe:
        log_call(configure_logging("info", "json", pipe))
    closed = io.BytesIO()
    log = configure_logging("info", "json", closed)
    closed.close()
    log_call(log)


def test_a_line_of_another_shape_is_bounded_and_escaped_as_well() -> None:
    """A host that has keys of its own gets the same cuts and escapes for its records."""
    line = bounded_line({"key": "x" * 1000, "message": "\u202e" * 100_000})
    record = json.loads(line)
    assert line.isascii()
    assert len(line) <= MAX_LINE_BYTES
    assert len(record["key"]) == MAX_FIELD_CHARS
    assert record["message"].endswith("... (cut)")
