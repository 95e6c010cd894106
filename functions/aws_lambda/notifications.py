"""SNS, S3, EventBridge and schedules: invocations that nobody waits for.

A failure is raised, because that alone makes Lambda try again and then hand the event to the dead-letter
queue or failure destination.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from functions.aws_lambda.calls import Calls
from functions.aws_lambda.deliveries import delivery_of
from functions.aws_lambda.dispatch import Dispatch
from functions.aws_lambda.event_shapes import Source


async def answer_notification(
    dispatch: Dispatch, source: Source, records: Sequence[Mapping[str, Any]], calls: Calls
) -> None:
    """Call the handler of each record in turn; raises the first `CallFailed` or `NexusError`.

    All are read before one is run, so that a malformed one does not leave its siblings run twice.
    """
    deliveries = [delivery_of(source, record) for record in records]
    for number, delivery in enumerate(deliveries, 1):
        await dispatch.run(source, delivery, calls, f"{calls.request_id}.{number}")
