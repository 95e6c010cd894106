"""`PendingCalls`: the extension calls one sleeping handler waits for, and their answers as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from nexus_core.result import AsyncResult


class PendingCalls:
    """Runs calls at once and collects their answers. What one answer costs does not grow with the others.

    (`asyncio.wait` looks at every task each time, and a handler may start thousands.)
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[AsyncResult], int] = {}
        self._answers: list[AsyncResult] = []
        self._failure: BaseException | None = None
        self._news = asyncio.Event()

    def __bool__(self) -> bool:
        """Whether an answer is still to come or to be taken."""
        return bool(self._tasks or self._answers)

    def start(self, call_id: int, call: Coroutine[Any, Any, AsyncResult]) -> None:
        """Run one call; it must answer under `call_id`."""
        task = asyncio.create_task(call)
        self._tasks[task] = call_id
        task.add_done_callback(self._take)

    async def wait(self, seconds: float | None) -> list[AsyncResult]:
        """The answers that have come, ordered by call id; waits for one, up to `seconds` (None: for ever).

        Empty when the time passed. Raises what a call raised instead of answering.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()
        if self._failure is not None:
            raise self._failure
        answers, self._answers = self._answers, []
        return sorted(answers, key=lambda answer: answer.call_id)

    def cancel(self) -> None:
        """Give up all calls that have not answered."""
        for task in self._tasks:
            task.cancel()

    def _take(self, task: asyncio.Task[AsyncResult]) -> None:
        call_id = self._tasks.pop(task)
        if task.cancelled():
            self._answers.append(AsyncResult(call_id=call_id, ok=False, error_message="it was cancelled"))
        elif (failure := task.exception()) is not None:
            self._failure = failure
        else:
            self._answers.append(task.result())
        self._news.set()
