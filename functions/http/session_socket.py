"""`WS /sessions/{session}/ws`: call handlers in a session, and watch what is committed to it.

Commits come from every worker process, those of this socket's own calls included. A call goes on
to its end when the socket closes, as one by HTTP does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.types import Receive, Scope, Send

from functions.http.answers import shown
from functions.http.auth import SUBPROTOCOL, Gate, Grant, challenge
from functions.http.envelope import Headers, capabilities_of, new_request_id, request_id_of
from functions.http.outbox import Outbox, TooSlow
from functions.http.problems import problem_answer
from functions.http.session_messages import (
    Connected,
    Event,
    Failure,
    Patch,
    Progress,
    Result,
    Subscribe,
    Trigger,
    read_wish,
)
from nexus_core.capabilities import CapabilitySet
from nexus_core.context import ExecutionContext
from nexus_core.errors import HandlerNotFound, InvalidRequest, NexusError, PoolExhausted
from nexus_core.limits import KIB
from nexus_core.result import ErrorInfo
from nexus_core.stores.base import Commit
from nexus_core.stores.bounds import check_session

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime

_log = logging.getLogger(__name__)

MAX_RUNNING: Final = 16
"""Calls of one socket that run at the same time; one more is refused."""

CLOSE_EXPIRED: Final = 4401
"""The close code when the token has expired."""
CLOSE_TOO_BIG: Final = 1009
CLOSE_FAILED: Final = 1011
CLOSE_TOO_SLOW: Final = 1013

# A message is an event and the few words around it.
MAX_ENVELOPE_BYTES: Final = 4 * KIB
_CLOSE_SECONDS: Final = 1.0


class SessionSockets:
    """Opens the sockets of a runtime's sessions."""

    def __init__(self, runtime: Runtime, gate: Gate) -> None:
        self._runtime = runtime
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket connection."""
        await receive()
        headers: Headers = dict(scope["headers"])
        try:
            grant = self._gate.admit_socket(headers, scope["subprotocols"])
            session = _session_at(scope["path"])
            capabilities = capabilities_of(headers)
        except NexusError as error:
            self._runtime.metrics.record_error(error.code)
            await _reject(scope, send, error, request_id_of(headers))
            return
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen})
        socket = _SessionSocket(self._runtime, grant, session, capabilities)
        await socket.serve(receive, send)


def _session_at(path: str) -> str:
    """The session of the path `/sessions/{session}/ws`; raises `HandlerNotFound` or `InvalidRequest`."""
    pieces = path.split("/")
    if len(pieces) != 4 or pieces[:2] != ["", "sessions"] or pieces[3] != "ws":
        raise HandlerNotFound("there is no WebSocket at this path; sessions are at /sessions/{session}/ws")
    check_session(pieces[2])
    return pieces[2]


async def _reject(scope: Scope, send: Send, error: NexusError, request_id: str) -> None:
    """Refuse the handshake, with the reason where the server can carry one."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    status, headers, body = problem_answer(error, request_id, challenge(error))
    headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class _SessionSocket:
    """One open socket. Its reader, sender and watcher live until any of them ends it."""

    def __init__(
        self, runtime: Runtime, grant: Grant, session: str, capabilities: CapabilitySet | None
    ) -> None:
        self._runtime = runtime
        self._grant = grant
        self._session = session
        self._capabilities = capabilities
        self._max_bytes = runtime.config.limits.max_input_bytes + MAX_ENVELOPE_BYTES
        self._end: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._own: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._watching = False

    async def serve(self, receive: Receive, send: Send) -> None:
        """Talk until the caller leaves, the token expires or something is wrong; then end the calls."""
        self._outbox = Outbox(send)
        self._spawn(self._outbox.run(), self._own)
        self._spawn(self._read(receive), self._own)
        try:
            code = await self._ended()
            for task in self._own:
                task.cancel()
            if code is not None:
                await _close(send, code)
            if self._calls:
                await asyncio.wait(self._calls)
        finally:
            for task in (*self._own, *self._calls):
                task.cancel()

    async def _ended(self) -> int | None:
        """The close code to end with; None when the caller is gone already."""
        expires_at = self._grant.expires_at
        left = None if expires_at is None else max(0.0, expires_at - time.time())
        try:
            async with asyncio.timeout(left):
                return await self._end
        except TimeoutError:
            return CLOSE_EXPIRED

    def _spawn(self, work: Coroutine[None, None, None], group: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        group.add(task)
        task.add_done_callback(group.discard)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """End the socket when one of its tasks failed."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, TooSlow):
            self._finish(CLOSE_TOO_SLOW)
        elif error is not None:
            _log.error("session socket failed", exc_info=error)
            self._finish(CLOSE_FAILED)

    def _finish(self, code: int | None) -> None:
        if not self._end.done():
            self._end.set_result(code)

    async def _read(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return self._finish(None)
            text: str | bytes = message.get("text") or message.get("bytes") or ""
            if len(text) > self._max_bytes:
                return self._finish(CLOSE_TOO_BIG)
            self._take(text)

    def _take(self, text: str | bytes) -> None:
        """Begin what one message asks for, or say why not."""
        wish: Trigger | Subscribe | None = None
        try:
            wish = read_wish(text)
            if isinstance(wish, Subscribe):
                self._subscribe()
            else:
                self._trigger(wish)
        except NexusError as error:
            self._runtime.metrics.record_error(error.code)
            self._outbox.put(Failure(wish.id if isinstance(wish, Trigger) else None, ErrorInfo.of(error)))

    def _subscribe(self) -> None:
        self._grant.require_read()
        if self._watching:
            raise InvalidRequest("this socket is subscribed already")
        self._watching = True
        self._spawn(self._watch(), self._own)

    def _trigger(self, wish: Trigger) -> None:
        self._grant.require_invoke(wish.handler)
        if len(self._calls) >= MAX_RUNNING:
            raise PoolExhausted(f"{MAX_RUNNING} calls of this socket are running; wait for one to end")
        self._spawn(self._call(wish), self._calls)

    async def _call(self, wish: Trigger) -> None:
        request_id = new_request_id()
        self._outbox.put(Progress(wish.id, "running", request_id))
        context = ExecutionContext(
            request_id=request_id,
            event=bytes(wish.event),
            session=self._session,
            capabilities=self._capabilities,
        )
        result = await self._runtime.execute(wish.handler, context)
        if result.error is not None:
            self._outbox.put(Failure(wish.id, result.error))
        elif result.status == "suspended":
            self._outbox.put(Progress(wish.id, "suspended", request_id, result.suspension))
        else:
            self._outbox.put(Result(wish.id, shown(result)))

    async def _watch(self) -> None:
        try:
            await self._pass_on_commits()
        except NexusError as error:
            # Too slow for the feed, or the store is gone: the caller may subscribe again.
            self._outbox.put(Failure(None, ErrorInfo.of(error)))
        finally:
            self._watching = False

    async def _pass_on_commits(self) -> None:
        # Subscribed before the state is read: a commit in between is seen twice, not lost.
        async with self._runtime.feed.subscribe(self._session) as commits:
            snapshot = await self._runtime.state_store.load(self._session)
            state = {key: msgspec.Raw(value) for key, value in snapshot.values.items()}
            self._outbox.put(Connected(self._session, snapshot.version, state))
            async for commit in commits:
                self._pass_on(commit, snapshot.version)

    def _pass_on(self, commit: Commit, known: int) -> None:
        """Send what a commit changed; the state sent first holds what commits up to `known` did."""
        if commit.mutations and commit.version > known:
            self._outbox.put(Patch(commit.version, commit.mutations, commit.request_id))
        for event in commit.events:
            self._outbox.put(Event(event.name, event.payload, commit.request_id))


async def _close(send: Send, code: int) -> None:
    """Say goodbye, unless that blocks: the server then drops the connection when we return."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await send({"type": "websocket.close", "code": code})
    except (TimeoutError, OSError):
        _log.info("a session socket did not take its close message: code=%d", code)
