"""Deliveries to the handlers whose triggers name their source."""

from __future__ import annotations

from types import MappingProxyType

from functions.aws_lambda.calls import Calls
from functions.aws_lambda.deliveries import TRIGGERED, Delivery
from functions.aws_lambda.event_shapes import Source
from nexus_core.handlers import HandlerRegistry
from nexus_core.result import ErrorInfo
from nexus_core.trigger_index import TriggerIndex


class CallFailed(Exception):
    """A triggered call ended with `error`; the message begins with the handler's name."""

    def __init__(self, handler: str, error: ErrorInfo) -> None:
        super().__init__(f"{handler}: {error.message}")
        self.error = error


class Dispatch:
    """Finds the handler of a delivery by its triggers, and calls it."""

    def __init__(self, registry: HandlerRegistry) -> None:
        self._indexes = MappingProxyType({source: TriggerIndex(registry, source) for source in TRIGGERED})

    async def run(self, source: Source, delivery: Delivery, calls: Calls, request_id: str) -> None:
        """Call the handler; raises `HandlerNotFound` when no trigger fits, `CallFailed` when the call fails.

        What the handler returns goes nowhere: nobody waits for it.
        """
        handler = self._indexes[source].handler_for(delivery.names)
        result = await calls.run(handler, delivery.event, request_id=request_id, session=delivery.session)
        if result.error is not None:
            raise CallFailed(handler, result.error)
