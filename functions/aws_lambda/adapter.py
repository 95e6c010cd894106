"""`LambdaAdapter`: events of Lambda's sources in, calls of the core, answers out.

event ─▶ source_of ─┬▶ HttpEvents            through the HTTP application
                    ├▶ answer_direct         the result of one call
                    ├▶ Batches               which records failed
                    └▶ answer_notification   nothing, or an error for Lambda to try again
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from functions.aws_lambda.calls import Calls, LambdaContext
from functions.aws_lambda.deliveries import BATCHED
from functions.aws_lambda.direct import answer_direct
from functions.aws_lambda.dispatch import CallFailed, Dispatch
from functions.aws_lambda.event_shapes import Source, source_of
from functions.aws_lambda.http_events import HttpEvents
from functions.aws_lambda.notifications import answer_notification
from functions.aws_lambda.replies import direct_reply, fault
from nexus_core.errors import InternalError, NexusError
from nexus_core.result import ErrorInfo

if TYPE_CHECKING:
    from functions.aws_lambda.batches import Batches
    from nexus_core.runtime import Runtime

_log = logging.getLogger(__name__)


class Watcher(Protocol):
    """What is told of each invocation."""

    def invocation(self, event: object, context: LambdaContext, source: str) -> AbstractContextManager[None]:
        """Surround one invocation."""


class LambdaAdapter:
    """The function: one object per process, called with one event at a time."""

    def __init__(self, runtime: Runtime, watcher: Watcher) -> None:
        self._loop = asyncio.new_event_loop()
        # Mangum makes a loop of its own where there is none.
        asyncio.set_event_loop(self._loop)
        self._runtime = runtime
        self._watcher = watcher
        self._http = HttpEvents(runtime)
        self._dispatch = Dispatch(runtime.handlers)

    def start(self) -> None:
        """Warm the pool; from here on events are taken."""
        self._loop.run_until_complete(self._runtime.start())

    @cached_property
    def _batches(self) -> Batches:
        # Powertools' part for batches is a third of all that INIT would import: the first batch does it.
        from functions.aws_lambda.batches import Batches

        return Batches(self._dispatch, self._runtime.config.max_instances)

    def warm(self, budget_seconds: float) -> int:
        """Bring handlers' images into memory until the time is over; how many those were.

        A handler that cannot be had is left to its callers, who are told why.
        """
        end = time.monotonic() + budget_seconds
        warmed = 0
        for name in self._runtime.handlers.names():
            if time.monotonic() >= end:
                break
            try:
                self._loop.run_until_complete(self._runtime.check(self._runtime.handlers.get(name)))
                warmed += 1
            except NexusError as error:
                _log.warning("handler %s cannot be warmed: %s", name, error.message)
        return warmed

    def before_snapshot(self) -> None:
        """Load what events may need, and let go of what a picture of this process must not hold."""
        if any(self._runtime.handlers.triggers(source) for source in BATCHED):
            _ = self._batches
        self._loop.run_until_complete(self._runtime.before_snapshot())

    def after_restore(self) -> None:
        """Go on in a process made from the picture."""
        self._loop.run_until_complete(self._runtime.after_restore())

    def close(self, seconds: float) -> bool:
        """Shut the runtime down within about `seconds`; False when a call had to be aborted."""
        clean = self._loop.run_until_complete(self._runtime.shutdown(seconds))
        asyncio.set_event_loop(None)
        self._loop.close()
        return clean

    def __call__(self, event: object, context: LambdaContext) -> Any:
        """Answer one invocation; raises awslambdaric's `FaultException` of code and message only."""
        try:
            source = source_of(event)
        except NexusError as error:
            with self._watcher.invocation(event, context, "unknown"):
                self._runtime.metrics.record_error(error.code)
                _log.warning("event refused: %s", error.message)
                raise fault(ErrorInfo.of(error)) from None
        with self._watcher.invocation(event, context, source):
            try:
                # `source_of` knows objects only.
                return self._answer(source, dict(event), context)  # type: ignore[call-overload]
            except CallFailed as error:
                raise fault(error.error, str(error)) from None
            except NexusError as error:
                self._runtime.metrics.record_error(error.code)
                raise fault(ErrorInfo.of(error)) from None
            except Exception:  # noqa: BLE001 - the caller gets a typed answer whatever broke
                _log.exception("invocation failed")
                failed = InternalError("Nexus failed to answer; its log has the cause under the request id")
                self._runtime.metrics.record_error(failed.code)
                raise fault(ErrorInfo.of(failed)) from None

    def _answer(self, source: Source, event: Mapping[str, Any], context: LambdaContext) -> Any:
        calls = Calls(self._runtime, context)
        # Mangum and Powertools run what they are given on the current loop: it must be the runtime's own.
        asyncio.set_event_loop(self._loop)
        if source is Source.HTTP:
            return self._http.answer(event, context, calls)
        if source is Source.DIRECT:
            return direct_reply(self._loop.run_until_complete(answer_direct(event, calls)))
        if source in BATCHED:
            return self._batches.answer(source, event["Records"], calls)
        records = event.get("Records", [event])
        return self._loop.run_until_complete(answer_notification(self._dispatch, source, records, calls))
