"""Lines of the function: one shape for calls and libraries, and nobody's text makes one of its own."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from aws_lambda_powertools import Logger
from hypothesis import given
from hypothesis import strategies as st

from functions.aws_lambda.log_lines import TRACE_VARIABLE, InvocationLines, take_over_logging
from nexus_core.errors import ErrorCode
from nexus_core.logs import MAX_LINE_BYTES, TALKATIVE, CallLog, Field
from tests.core.log_streams import lines_of, own_logging_kept

KEYS: dict[str, Field] = {
    "cold_start": True,
    "function_request_id": "invocation-1",
    "correlation_id": "gateway-1",
}
TRACE = "1-5759e988-bd862e3fe1be46a994272793"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Give the process its own logging back."""
    with own_logging_kept(
        *TALKATIVE, "aws_lambda_powertools", "aws_xray_sdk", "boto3", "botocore", "urllib3"
    ):
        yield


@pytest.fixture
def stream() -> io.BytesIO:
    """Standard output."""
    return io.BytesIO()


@pytest.fixture
def lines(stream: io.BytesIO) -> InvocationLines:
    """The writer, which has all of the standard module's records from `info` on."""
    made = InvocationLines("shop", stream)
    take_over_logging(made, "info")
    return made


def log_call(lines: InvocationLines, code: ErrorCode | None = None) -> None:
    """Log one call."""
    CallLog(lines, "info").call(
        "r1", "hello", None, status="success", code=code, duration_us=61, cold_start=False
    )


def test_a_call_has_the_keys_of_its_invocation(
    lines: InvocationLines, stream: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call's line tells service, invocation, sender and trace beside what the call log says."""
    monkeypatch.setenv(TRACE_VARIABLE, f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=1")
    lines.begin(KEYS)
    log_call(lines)
    (line,) = lines_of(stream)
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "message": "call",
        "logger": "nexus.call",
        "service": "shop",
        "cold_start": True,
        "function_request_id": "invocation-1",
        "correlation_id": "gateway-1",
        "xray_trace_id": TRACE,
        "request_id": "r1",
        "handler": "hello",
        "status": "success",
        "duration_us": 61,
        "instance_created": False,
    }


def test_lines_of_libraries_and_of_powertools_have_the_same_shape(
    lines: InvocationLines, stream: io.BytesIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the standard module or a Logger of an extension writes has every key that a call's line has."""
    monkeypatch.setenv(TRACE_VARIABLE, f"Root={TRACE};Parent=53995c3f42cd8ad8;Sampled=1")
    own = logging.StreamHandler(io.TextIOWrapper(stream, write_through=True))
    extension = Logger("extension", logger_handler=own, logger_formatter=lines.formatter)
    logging.getLogger("extension").propagate = False
    lines.begin(KEYS)
    log_call(lines, ErrorCode.TIMEOUT)
    logging.getLogger("library").warning("disk %s", "full")
    extension.warning("told", extra={"order": 7})
    ours, library, powertools = lines_of(stream)
    about_the_call = {"request_id", "handler", "status", "code", "duration_us", "instance_created"}
    shared = ours.keys() - about_the_call
    for line in (library, powertools):
        assert line.keys() >= shared
        assert {key: line[key] for key in KEYS} == KEYS
        assert (line["level"], line["service"], line["xray_trace_id"]) == ("WARNING", "shop", TRACE)
        assert len(line["timestamp"]) == len(ours["timestamp"])
    assert (library["logger"], library["message"]) == ("library", "disk full")
    assert (powertools["message"], powertools["order"]) == ("told", 7)


def test_keys_end_with_their_invocation(lines: InvocationLines, stream: io.BytesIO) -> None:
    """Before an invocation and after it, no line names one."""
    lines.begin(KEYS)
    lines.begin({"function_request_id": "invocation-2", "correlation_id": None})
    log_call(lines)
    lines.end()
    log_call(lines)
    logging.getLogger("library").info("idle")
    second, *rest = lines_of(stream)
    assert second["function_request_id"] == "invocation-2"
    assert KEYS.keys() & second.keys() == {"function_request_id"}
    assert all(KEYS.keys().isdisjoint(line) for line in rest)
    assert all(line["service"] == "shop" for line in rest)


def test_a_traceback_is_part_of_the_message(lines: InvocationLines, stream: io.BytesIO) -> None:
    """A record with an exception stays one line, which names the kind."""
    del lines
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        logging.getLogger("library").exception("failed")
    (line,) = lines_of(stream)
    assert line["message"].startswith("failed\nTraceback (most recent call last):\n")
    assert line["exception_name"] == "RuntimeError"
    assert "exception" not in line


@pytest.mark.parametrize("text", ['{"level":"ERROR"}', "[1,2]", "true", "[" * 8000, '{"a":' * 1500])
def test_a_message_that_is_json_stays_text(lines: InvocationLines, stream: io.BytesIO, text: str) -> None:
    """Text of a guest is never read as JSON, however deep: Powertools by itself would, or fail."""
    lines.write("info", "nexus.handler", text, {})
    logging.getLogger("library").info(text)
    assert [line["message"] for line in lines_of(stream)] == [text, text]


@given(st.text(), st.text())
def test_no_text_makes_a_line_of_its_own(message: str, field: str) -> None:
    """Whatever a message or field holds, it is one line of printable characters that says the same."""
    stream = io.BytesIO()
    lines = InvocationLines("shop", stream)
    lines.begin({"correlation_id": field})
    lines.write("info", "nexus.handler", message, {"handler": field})
    record = logging.makeLogRecord({"msg": message, "name": "library"})
    lines.send(lines.formatter.format(record).encode() + b"\n")
    parts = stream.getvalue().decode().split("\n")
    assert len(parts) == 3
    assert all(part.isprintable() for part in parts)
    ours, library = lines_of(stream)
    assert (ours["message"], library["message"]) == (message, message)
    assert (ours["handler"], ours["correlation_id"], library["correlation_id"]) == (field, field, field)


def test_long_texts_are_cut(lines: InvocationLines, stream: io.BytesIO) -> None:
    """Neither a message nor a field makes a line too long for a reader, whoever writes it."""
    lines.write("info", "nexus.handler", "\u202e" * 100_000, {"handler": "h" * 100_000})
    logging.getLogger("library").info("\u202e" * 100_000, extra={"body": {"key": ["x" * 100_000]}})
    first, second = stream.getvalue().splitlines()
    assert max(len(first), len(second)) <= MAX_LINE_BYTES
    assert json.loads(second)["body"].endswith("... (cut)")


def test_a_wrong_log_call_of_a_library_is_still_a_line(lines: InvocationLines) -> None:
    """Arguments that do not fit the message leave the message as it is."""
    record = logging.makeLogRecord({"msg": "%d items", "args": ("many",)})
    assert json.loads(lines.formatter.format(record))["message"] == "%d items"


def test_the_runtime_clients_own_lines_end(stream: io.BytesIO) -> None:
    """Its handler would write all records twice, so it goes, as an earlier one of ours does; others stay."""
    from awslambdaric.bootstrap import LambdaLoggerHandler, StandardLogSink  # type: ignore[import-untyped]

    root = logging.getLogger()
    theirs, others = LambdaLoggerHandler(StandardLogSink()), logging.NullHandler()
    root.addHandler(theirs)
    root.addHandler(others)
    earlier = io.BytesIO()
    take_over_logging(InvocationLines("shop", earlier), "info")
    take_over_logging(InvocationLines("shop", stream), "warning")
    logging.getLogger("library").warning("once")
    logging.getLogger("library").info("below the level")
    assert [line["message"] for line in lines_of(stream)] == ["once"]
    assert earlier.getvalue() == b""
    assert theirs not in root.handlers
    assert others in root.handlers


@pytest.mark.parametrize("name", ["httpx", "botocore.auth", "urllib3.connectionpool"])
def test_libraries_that_tell_secrets_are_held_to_warnings(name: str, stream: io.BytesIO) -> None:
    """Whole addresses and signed headers are in no line, at any level."""
    take_over_logging(InvocationLines("shop", stream), "debug")
    logging.getLogger("library").debug("told")
    logging.getLogger(name).info("https://example.com/?token=secret")
    assert [line["message"] for line in lines_of(stream)] == ["told"]


def test_a_closed_stream_loses_lines_and_no_calls(lines: InvocationLines, stream: io.BytesIO) -> None:
    """When nobody reads standard output any more, logging goes on in silence."""
    stream.close()
    log_call(lines)
    logging.getLogger("library").warning("lost")
