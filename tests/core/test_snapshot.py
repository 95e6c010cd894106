"""A runtime that is pictured while it rests, and started from the picture, as SnapStart does."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nexus_core.extensions.base import ExtensionMethod
from nexus_core.stores.memory import MemoryStateStore
from tests.core.runtimes import RuntimeFactory, body, call, handler, value


class _ConnectedExtension:
    """An extension that counts the same."""

    name = "connected"
    methods: Mapping[str, ExtensionMethod] = MappingProxyType({})
    disconnects = 0

    async def disconnect(self) -> None:
        """See `HoldsConnections`."""
        self.disconnects += 1

    async def close(self) -> None:
        """See `Extension`."""


class _ConnectedStore(MemoryStateStore):
    """A store that counts how often it was told to let go of its connections."""

    disconnects = 0

    async def disconnect(self) -> None:
        """See `HoldsConnections`."""
        self.disconnects += 1


async def test_a_picture_of_the_process_has_no_connections(start: RuntimeFactory) -> None:
    """Before a snapshot and after it, extensions and the store let go, and the ticker is started anew."""
    store, extension = _ConnectedStore(), _ConnectedExtension()
    runtime = await start(extensions=[extension])
    runtime.state_store = store
    source = handler(body("while (ctx.remainingMs() > 4900); return Math.random()"))
    first = value(await runtime.execute_source(source, call()))
    ticker = runtime._parts.engine.ticker
    thread = ticker._thread
    await runtime.before_snapshot()
    assert (store.disconnects, extension.disconnects) == (1, 1)
    await runtime.after_restore()
    assert (store.disconnects, extension.disconnects) == (2, 2)
    assert ticker._thread is None
    assert value(await runtime.execute_source(source, call())) != first
    assert ticker._thread is not thread
