"""`Observer`: what the function tells of itself, in the forms that AWS's tools read.

Logs and metrics go to standard output, from where Lambda takes them to CloudWatch; traces go to X-Ray's
daemon. Made once, at INIT.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import BinaryIO, Final

from functions.aws_lambda.calls import LambdaContext
from functions.aws_lambda.correlation import correlation_id
from functions.aws_lambda.emf_metrics import EmfMetrics
from functions.aws_lambda.log_lines import InvocationLines, take_over_logging
from functions.aws_lambda.tracing import CallTracer
from nexus_core.config import RuntimeConfig
from nexus_core.errors import ErrorCode
from nexus_core.logs import CallLog, LogLevel
from nexus_core.metrics import MetricsCollector

DEFAULT_NAMESPACE: Final = "Nexus"

_log = logging.getLogger(__name__)

# From the strictest on; Lambda has two levels more at the ends.
_LEVELS: Final[Mapping[LogLevel, tuple[str, ...]]] = MappingProxyType(
    {
        "error": ("ERROR", "FATAL"),
        "warning": ("WARN",),
        "info": ("INFO",),
        "debug": ("DEBUG", "TRACE"),
    }
)


class Observer:
    """Logs, metrics and traces of one function.

    `log` is for `build_runtime`, whose runtime's collector is for `watch`. Making an observer takes over
    the standard `logging` module.
    """

    def __init__(
        self, environ: Mapping[str, str], config: RuntimeConfig, stream: BinaryIO | None = None
    ) -> None:
        name = environ.get("AWS_LAMBDA_FUNCTION_NAME") or "nexus"
        service = environ.get("POWERTOOLS_SERVICE_NAME") or name
        level = _level(config.log_level, environ.get("AWS_LAMBDA_LOG_LEVEL"))
        self._lines = InvocationLines(service, sys.stdout.buffer if stream is None else stream)
        self._metrics = EmfMetrics(environ.get("POWERTOOLS_METRICS_NAMESPACE") or DEFAULT_NAMESPACE, service)
        take_over_logging(self._lines, level)
        self._tracer = CallTracer(environ, service)
        # As Powertools has it: provisioned environments were started long before their first event.
        self._cold = environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "provisioned-concurrency"
        self.log: CallLog = _TracedCallLog(self._lines, level, self._tracer)
        """The runtime's log."""

    def watch(self, collector: MetricsCollector) -> None:
        """Write what this collector counts, INIT included, at the end of each invocation."""
        self._metrics.watch(collector)

    def restored(self) -> None:
        """Tell that this process goes on from a snapshot: its next event is its first.

        What was counted before belongs to the snapshot, and not to every process made from it.
        """
        self._cold = True
        self._metrics.forget()

    @contextmanager
    def invocation(self, event: object, context: LambdaContext, source: str) -> Iterator[None]:
        """Put an invocation's keys on each line within, and write its metrics at the end, however it ends."""
        cold, self._cold = self._cold, False
        self._lines.begin(
            {
                "cold_start": cold,
                "function_request_id": context.aws_request_id,
                "correlation_id": correlation_id(event, source),
            }
        )
        self._tracer.begin()
        try:
            yield
        finally:
            self._flush(cold_start=cold)
            self._lines.end()

    def _flush(self, *, cold_start: bool) -> None:
        try:
            if documents := b"".join(self._metrics.documents(cold_start=cold_start)):
                self._lines.send(documents)
        except Exception:  # noqa: BLE001 - the answer is there, and must get out
            _log.exception("metrics of this invocation are lost")


class _TracedCallLog(CallLog):
    """The call log, which is where the end of every call is known."""

    def __init__(self, lines: InvocationLines, level: LogLevel, tracer: CallTracer) -> None:
        super().__init__(lines, level)
        self._tracer = tracer

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
        """See `CallLog`."""
        self._tracer.call(handler, status=status, code=code, duration_us=duration_us)
        super().call(
            request_id,
            handler,
            session,
            status=status,
            code=code,
            duration_us=duration_us,
            cold_start=cold_start,
        )


def _level(ours: LogLevel, lambdas: str | None) -> LogLevel:
    """The stricter of our level and the one of Lambda's advanced logging controls."""
    return next(level for level, names in _LEVELS.items() if level == ours or lambdas in names)
