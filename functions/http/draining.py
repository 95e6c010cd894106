"""uvicorn's server, with a stop that loses no request.

    signal ─▶ not ready; every answer ends its connection  ─▶ nothing new is listened to; idle
              callers are still answered, for a moment         connections close, running calls end

HTTP/1.1 has no way to tell a caller that keeps its connection open not to use it again but with an answer.
Closing at once would meet requests on their way here, which their callers may not repeat.
"""

from __future__ import annotations

import asyncio
import socket
from types import FrameType
from typing import TYPE_CHECKING, Final

import uvicorn
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime

LINGER_SECONDS: Final = 1.0
"""How long callers with open connections, and those who come late, are still answered after the signal."""

_TICK_SECONDS: Final = 0.05


class DrainState(ServerState):
    """What the connections of a server share."""

    def __init__(self) -> None:
        super().__init__()
        self.draining = False


class DrainingServer(uvicorn.Server):
    """Ends with code 0 where uvicorn raises the signal again; `runtime` is told of the stop."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime) -> None:
        super().__init__(config)
        self.server_state: DrainState = DrainState()
        self._runtime = runtime

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal asks to stop; the second one not to wait."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer who is on the way here, then stop as uvicorn does."""
        self.server_state.draining = True
        self._runtime.draining = True
        await self._linger()
        await super().shutdown(sockets)

    async def _linger(self) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + min(LINGER_SECONDS, self.config.timeout_graceful_shutdown or 0)
        while clock() < end and not self.force_exit:
            # Once in any case: the kernel may hold connections that were not taken from it yet.
            await asyncio.sleep(_TICK_SECONDS)
            if not self.server_state.connections:
                return
