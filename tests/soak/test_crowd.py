"""Many clients on few instances: no answer is lost, none crossed, and in the end everything adds up."""

from __future__ import annotations

import asyncio
import time

import pytest

from nexus_core.runtime import Runtime
from tests.core.runtimes import body, call, handler, value
from tests.soak.clients import CLIENTS, GOOD, HOSTILE, Books, run_clients

SECONDS = 30


async def _settle(runtime: Runtime, books: Books) -> None:
    """Compare the books, then see that every handler still answers."""
    books.settle(runtime)
    left = "return [typeof globalThis.left, typeof globalThis.big, JSON.stringify([1])]"
    after = handler(body(left), name="after")
    for _ in range(16):
        assert value(await runtime.execute_source(after, call())) == ["undefined", "undefined", "[1]"]


async def test_a_crowd_of_clients_gets_its_answers(crowded: Runtime) -> None:
    """A few calls of each of 64 clients, good and hostile ones mixed, over 8 instances."""
    books = await run_clients(crowded, lambda calls: calls < 8)
    assert sum(books.ends.values()) + books.cancelled == CLIENTS * 8
    await _settle(crowded, books)


@pytest.mark.soak
async def test_a_crowd_of_clients_gets_its_answers_for_long(crowded: Runtime) -> None:
    """The same for half a minute; memory that is ours does not grow with the calls."""
    end = time.monotonic() + SECONDS
    books = await run_clients(crowded, lambda _: time.monotonic() < end)
    assert {name for name, _ in books.ends} == {source.name for source in GOOD} | set(HOSTILE)
    await asyncio.sleep(0)
    await _settle(crowded, books)
