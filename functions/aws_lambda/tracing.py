"""X-Ray: one subsegment for each handler call of a traced invocation, through Powertools' Tracer.

The X-Ray SDK takes 400 ms to import, so it is left alone until an invocation is traced, unless
`POWERTOOLS_TRACE_DISABLED` says "false": then INIT, or the snapshot of SnapStart, has it ready.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from aws_lambda_powertools.shared.constants import (
    CHALICE_LOCAL_ENV,
    LAMBDA_TASK_ROOT_ENV,
    SAM_LOCAL_ENV,
    TRACER_DISABLED_ENV,
)
from aws_lambda_powertools.shared.functions import strtobool

from functions.aws_lambda.log_lines import TRACE_VARIABLE
from nexus_core.errors import ERROR_TABLE, ErrorCode

if TYPE_CHECKING:
    from aws_lambda_powertools import Tracer

_log = logging.getLogger(__name__)

_SAMPLED: Final = "Sampled=1"


class CallTracer:
    """Tells X-Ray of calls. What goes wrong on the way is logged and fails no call.

    Tracing may be on where Powertools would have it on: in Lambda, not in a local copy of it, and
    unless `POWERTOOLS_TRACE_DISABLED` is true. Lambda then decides for each invocation.
    """

    def __init__(self, environ: Mapping[str, str], service: str) -> None:
        self._environ = environ
        self._service = service
        self._tracer: Tracer | None = None
        self._sampled = False
        self._may_be_on = bool(
            environ.get(LAMBDA_TASK_ROOT_ENV)
            and not environ.get(SAM_LOCAL_ENV)
            and not environ.get(CHALICE_LOCAL_ENV)
            and not strtobool(environ.get(TRACER_DISABLED_ENV) or "false")
        )
        if self._may_be_on and environ.get(TRACER_DISABLED_ENV):
            self._start()

    def begin(self) -> None:
        """An invocation begins: find out whether Lambda traces it."""
        self._sampled = self._may_be_on and _SAMPLED in self._environ.get(TRACE_VARIABLE, "")

    def call(self, handler: str, *, status: str, code: ErrorCode | None, duration_us: int) -> None:
        """A call of this invocation has ended just now."""
        if self._sampled and self._tracer is None:
            self._start()
        if not self._sampled or self._tracer is None:
            return
        try:
            self._send(self._tracer, handler, status, code, duration_us)
        except Exception:  # noqa: BLE001 - the call went well whatever becomes of its trace
            _log.warning("call not traced", exc_info=True)

    def _start(self) -> None:
        """Import the SDK; what fails now, such as a daemon's address that is none, will fail again."""
        try:
            from aws_lambda_powertools import Tracer

            self._tracer = Tracer(service=self._service, auto_patch=False)
        except Exception:  # noqa: BLE001 - a function without traces is better than none
            _log.warning("tracing is off", exc_info=True)
            self._may_be_on = self._sampled = False

    def _send(
        self, tracer: Tracer, handler: str, status: str, code: ErrorCode | None, duration_us: int
    ) -> None:
        """Open and close the subsegment at once: calls overlap, and the SDK knows one open one a thread."""
        with tracer.provider.in_subsegment(name=f"## {handler}") as opened:
            subsegment = cast("Any", opened)
            subsegment.start_time = time.time() - duration_us / 1e6
            subsegment.put_annotation("handler", handler)
            subsegment.put_annotation("status", status)
            if code is not None:
                subsegment.put_annotation("code", code.value)
                is_fault = ERROR_TABLE[code].http_status >= 500
                (subsegment.add_fault_flag if is_fault else subsegment.add_error_flag)()
