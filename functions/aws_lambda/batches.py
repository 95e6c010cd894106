"""SQS, Kinesis and DynamoDB batches: one call per record, and the records that failed told to Lambda.

The event source mapping must have `ReportBatchItemFailures`, as in template.yaml, or Lambda takes the whole
batch for done.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from aws_lambda_powertools.utilities.batch import AsyncBatchProcessor, EventType

from functions.aws_lambda.calls import Calls
from functions.aws_lambda.deliveries import delivery_of, group_of, identifier_of
from functions.aws_lambda.dispatch import CallFailed, Dispatch
from functions.aws_lambda.event_shapes import Source
from nexus_core.errors import NexusError

_log = logging.getLogger(__name__)

_EVENT_TYPES: Final = MappingProxyType(
    {
        Source.SQS: EventType.SQS,
        Source.KINESIS: EventType.KinesisDataStreams,
        Source.DYNAMODB: EventType.DynamoDBStreams,
    }
)


class EarlierRecordFailed(Exception):
    """A record was left for the next try, because one that must be handled before it failed."""


class Batches:
    """Answers batches: up to `most_at_once` records at a time, those of one group one after the other."""

    def __init__(self, dispatch: Dispatch, most_at_once: int) -> None:
        self._dispatch = dispatch
        self._most_at_once = most_at_once

    def answer(self, source: Source, records: Sequence[Mapping[str, Any]], calls: Calls) -> dict[str, Any]:
        """`{"batchItemFailures": [...]}`; raises `InvalidRequest` when a failure could not be told.

        Runs the current event loop, which must stand still.
        """
        for record in records:
            identifier_of(source, record)
        batch = _Batch(self._dispatch, source, calls, self._most_at_once)
        processor = AsyncBatchProcessor(_EVENT_TYPES[source], raise_on_entire_batch_failure=False)
        with processor([dict(record) for record in records], batch.handle) as running:
            running.async_process()
        return dict(processor.response())


class _Batch:
    """One batch on its way."""

    def __init__(self, dispatch: Dispatch, source: Source, calls: Calls, most_at_once: int) -> None:
        self._dispatch = dispatch
        self._source = source
        self._calls = calls
        self._room = asyncio.Semaphore(most_at_once)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failed: set[str] = set()
        self._count = 0

    async def handle(self, record: Any) -> None:
        """Handle one record, as Powertools wraps it; whatever is raised makes it a failed one."""
        self._count += 1
        request_id = f"{self._calls.request_id}.{self._count}"
        identifier = identifier_of(self._source, record.raw_event)
        try:
            await self._deliver(record.raw_event, request_id)
        except (NexusError, CallFailed, EarlierRecordFailed) as error:
            _log.warning("%s record %s failed (%s): %s", self._source, identifier, request_id, error)
            raise
        except Exception:
            _log.exception("%s record %s failed (%s)", self._source, identifier, request_id)
            raise

    async def _deliver(self, record: Mapping[str, Any], request_id: str) -> None:
        group = group_of(self._source, record)
        if group is None:
            async with self._room:
                await self._run(record, request_id)
            return
        # A lock is given to those who wait in the order they came, which is the order of the records.
        async with self._turns[group], self._room:
            if group in self._failed:
                raise EarlierRecordFailed("an earlier record of its group failed")
            try:
                await self._run(record, request_id)
            except Exception:
                self._failed.add(group)
                raise

    async def _run(self, record: Mapping[str, Any], request_id: str) -> None:
        delivery = delivery_of(self._source, record)
        await self._dispatch.run(self._source, delivery, self._calls, request_id)
