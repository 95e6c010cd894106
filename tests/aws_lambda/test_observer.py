"""The observer around whole invocations: lines, metrics and what ends with them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.aws_lambda.observer import Observer
from nexus_core.build import build_runtime
from nexus_core.config import RuntimeConfig
from nexus_core.context import ExecutionContext
from nexus_core.errors import ErrorCode
from nexus_core.metrics import MetricsCollector
from tests.aws_lambda.emf_rules import totals
from tests.core.log_streams import own_logging_kept
from tests.core.scraping import run_call

HTTP = {"requestContext": {"requestId": "gateway-1"}}


class Context:
    """Lambda's context object, as far as it is used."""

    def __init__(self, request_id: str) -> None:
        self.aws_request_id = request_id

    def get_remaining_time_in_millis(self) -> int:
        """See `LambdaContext`."""
        return 3000


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Give the process its own logging back."""
    with own_logging_kept("httpx", "httpcore", "botocore", "urllib3"):
        yield


@pytest.fixture
def stream() -> io.BytesIO:
    """Standard output."""
    return io.BytesIO()


def observer_of(stream: io.BytesIO, environ: dict[str, str] | None = None, **settings: Any) -> Observer:
    """An observer with these variables and settings."""
    return Observer(
        {"AWS_LAMBDA_FUNCTION_NAME": "shop", **(environ or {})}, RuntimeConfig(**settings), stream
    )


def written(stream: io.BytesIO) -> tuple[list[dict[str, Any]], bytes]:
    """The log lines, and the lines that are metrics."""
    parts = stream.getvalue().splitlines(keepends=True)
    metrics = [part for part in parts if b'"_aws"' in part]
    return [json.loads(part) for part in parts if part not in metrics], b"".join(metrics)


def log_call(observer: Observer, code: ErrorCode | None = None) -> None:
    """Log one call."""
    observer.log.call(
        "r1",
        "hello",
        None,
        status="error" if code else "success",
        code=code,
        duration_us=61,
        cold_start=False,
    )


def test_lines_within_an_invocation_name_it(stream: io.BytesIO) -> None:
    """Calls and libraries show the invocation's id, its sender's and the cold start; the next has its own."""
    observer = observer_of(stream)
    for request_id in ("first", "second"):
        with observer.invocation(HTTP, Context(request_id), "http"):
            log_call(observer)
            logging.getLogger("library").warning("hm")
    logging.getLogger("library").warning("between")
    *within, between = written(stream)[0]
    about = [(line["function_request_id"], line["correlation_id"], line["cold_start"]) for line in within]
    assert about == [("first", "gateway-1", True)] * 2 + [("second", "gateway-1", False)] * 2
    assert {line["service"] for line in within} == {"shop"}
    assert "function_request_id" not in between


def test_a_failed_invocation_is_told_as_well(stream: io.BytesIO) -> None:
    """Its metrics are written and its keys end, and the error goes on to whoever invoked."""
    observer = observer_of(stream)
    collector = MetricsCollector()
    observer.watch(collector)

    def fail() -> None:
        with observer.invocation(HTTP, Context("one"), "http"):
            run_call(collector, "hello", status="error", code=ErrorCode.TIMEOUT)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    log_call(observer)
    lines, metrics = written(stream)
    sums, _ = totals(metrics)
    assert sums[("shop",), "Errors.TIMEOUT"] == 1
    assert sums[("shop",), "ColdStart"] == 1
    assert "function_request_id" not in lines[-1]


def test_metrics_that_fail_fail_no_invocation(stream: io.BytesIO) -> None:
    """What goes wrong while counts are read is logged, and the answer gets out."""
    observer = observer_of(stream)
    collector = MetricsCollector()

    def broken() -> Any:
        raise RuntimeError("no statistics")

    collector.watch_pool(broken)
    observer.watch(collector)
    with observer.invocation(HTTP, Context("one"), "http"):
        run_call(collector)
    (line,), _ = written(stream)
    assert line["message"].startswith("metrics of this invocation are lost\nTraceback")
    assert line["function_request_id"] == "one"


def test_a_restored_process_starts_anew(stream: io.BytesIO) -> None:
    """Its first invocation is a cold start, and counts of before the snapshot are not told again."""
    observer = observer_of(stream)
    collector = MetricsCollector()
    observer.watch(collector)
    with observer.invocation({}, Context("warm-up"), "unknown"):
        pass
    collector.record_cache("compile", "miss")
    stream.truncate(0)
    stream.seek(0)
    observer.restored()
    with observer.invocation(HTTP, Context("one"), "http"):
        log_call(observer)
    (line,), metrics = written(stream)
    assert line["cold_start"] is True
    assert dict(totals(metrics)[0]) == {(("shop",), "ColdStart"): 1}


def test_provisioned_environments_start_warm(stream: io.BytesIO) -> None:
    """As in Powertools, an environment started ahead has no cold start: nobody waited for it."""
    observer = observer_of(stream, {"AWS_LAMBDA_INITIALIZATION_TYPE": "provisioned-concurrency"})
    with observer.invocation(HTTP, Context("one"), "http"):
        log_call(observer)
    assert written(stream)[0][0]["cold_start"] is False


@pytest.mark.parametrize(
    ("ours", "lambdas", "shown"),
    [
        ("info", None, ["info", "warning", "error"]),
        ("error", None, ["error"]),
        ("info", "WARN", ["warning", "error"]),
        ("info", "FATAL", ["error"]),
        ("warning", "DEBUG", ["warning", "error"]),
        ("debug", "TRACE", ["debug", "info", "warning", "error"]),
    ],
)
def test_the_stricter_level_counts(
    stream: io.BytesIO, ours: str, lambdas: str | None, shown: list[str]
) -> None:
    """Both our level and the one set at the function hold lines back, whoever writes them."""
    observer = observer_of(stream, {"AWS_LAMBDA_LOG_LEVEL": lambdas} if lambdas else {}, log_level=ours)
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("library"), level)(level)
    log_call(observer)
    log_call(observer, ErrorCode.TIMEOUT)
    calls = ["call" for level in ("info", "warning") if level in shown]
    assert [line["message"] for line in written(stream)[0]] == [*shown, *calls]


def test_audit_records_are_written_at_every_level(stream: io.BytesIO) -> None:
    """A refused capability is a line with the invocation's keys even when only errors are logged."""
    observer = observer_of(stream, log_level="error")
    with observer.invocation(HTTP, Context("one"), "http"):
        observer.log.refusal("r1", "hello", None, token="ext:http", operation="ext")
    (line,), _ = written(stream)
    assert (line["logger"], line["token"], line["function_request_id"]) == ("nexus.audit", "ext:http", "one")


def test_names_are_powertools_own(stream: io.BytesIO) -> None:
    """Powertools' variables for service and namespace are followed; the function's name is the default."""
    environ = {"POWERTOOLS_SERVICE_NAME": "checkout", "POWERTOOLS_METRICS_NAMESPACE": "Acme"}
    observer = observer_of(stream, environ)
    observer.watch(MetricsCollector())
    with observer.invocation(HTTP, Context("one"), "http"):
        log_call(observer)
    (line,), metrics = written(stream)
    assert line["service"] == "checkout"
    assert json.loads(metrics)["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Acme"
    assert json.loads(metrics)["service"] == "checkout"


def test_a_runtime_tells_of_its_calls(stream: io.BytesIO, tmp_path: Path) -> None:
    """With the observer's log and the runtime's counts exchanged, both show a call."""
    observer = observer_of(stream)
    runtime = build_runtime(RuntimeConfig(cache_dir=tmp_path, store_url="memory:"), log=observer.log)
    observer.watch(runtime.metrics)

    async def story() -> None:
        with observer.invocation(HTTP, Context("one"), "http"):
            await runtime.execute("nobody", ExecutionContext(request_id="r1", event=b"{}"))
        await runtime.shutdown(0)

    asyncio.run(story())
    (line,), metrics = written(stream)
    assert (line["code"], line["request_id"], line["function_request_id"]) == (
        "HANDLER_NOT_FOUND",
        "r1",
        "one",
    )
    sums, _ = totals(metrics)
    assert sums[("shop",), "Errors.HANDLER_NOT_FOUND"] == 1
    assert sums[("shop", "other"), "Executions.error"] == 1


def test_lines_go_to_standard_output() -> None:
    """Lambda reads standard output; with the runtime client's wrapper round it, too."""
    program = """
import logging, os, sys
from awslambdaric.bootstrap import Unbuffered
sys.stdout = Unbuffered(sys.stdout)
from functions.aws_lambda.observer import Observer
from nexus_core.config import RuntimeConfig
Observer(os.environ, RuntimeConfig())
logging.getLogger("library").warning("told")
assert "aws_xray_sdk" not in sys.modules and "botocore.session" not in sys.modules
assert "prometheus_client" not in sys.modules and "mangum" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["message"] == "told"
    assert done.stderr == ""
