"""`serve(config)`: the application behind uvicorn, in one process or several.

Of the ASGI servers tried, uvicorn (httptools, uvloop) takes the least processor time per request.
Several workers listen on a socket each at the same port (SO_REUSEPORT): the kernel spreads the
connections. Before anything is bound, an address that others can reach is refused without tokens.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import uvicorn

from functions.http.app import build_application
from functions.http.auth import requires_token
from functions.http.connection import HttpConnection, SocketConnection
from functions.http.draining import DrainingServer
from functions.http.session_socket import MAX_ENVELOPE_BYTES
from functions.http.workers import run_workers
from nexus_core.build import build_runtime
from nexus_core.config import ConfigError, RuntimeConfig
from nexus_core.logs import configure_logging
from nexus_core.metrics import prepare_multiprocess_dir
from nexus_core.runtime import Runtime

_log = logging.getLogger(__name__)

_BACKLOG: Final = 2048
_KEEP_ALIVE_SECONDS: Final = 75
# A worker that was told to stop has this long beside `shutdown_timeout_ms` before it is killed.
_STOP_MARGIN_SECONDS: Final = 5.0

BuildRuntime = Callable[..., Runtime]
"""Called with the configuration, `metrics_dir` and `log`, as `build_runtime` is."""

Address = tuple[socket.AddressFamily, Any]
"""A family, and an address of it as `socket.bind` takes it."""


def serve(
    config: RuntimeConfig, *, build: BuildRuntime = build_runtime, log_stream: BinaryIO | None = None
) -> int:
    """Serve until SIGTERM or SIGINT, let running calls finish, and return the exit code (0: all went well).

    `build` makes the runtime of each worker, in the worker's own process. Log lines go to `log_stream`,
    which is standard error unless it is given.

    Call it in the main thread of a process that runs no others. Raises `ConfigError`, before anything
    is listening, for an address that needs tokens or cannot be had.
    """
    address = _resolve(config)
    local_only = _check_exposure(config, address)
    log = configure_logging(config.log_level, config.log_format, log_stream)
    with ExitStack() as stack:
        metrics_dir = _shared_metrics(stack) if config.workers > 1 else None
        sockets = _listen(config, address)
        _log.info("serving: address=%s port=%d workers=%d", config.host, config.port, config.workers)

        def work(index: int) -> int:
            runtime = build(config, metrics_dir=metrics_dir, log=log)
            return _work(runtime, sockets, index, local_only=local_only)

        if config.workers == 1:
            return work(0)
        patience = config.shutdown_timeout_ms / 1000 + _STOP_MARGIN_SECONDS
        return run_workers(config.workers, work, sockets, stop_seconds=patience)


def _resolve(config: RuntimeConfig) -> Address:
    """The address to listen on."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"NEXUS_HOST: {config.host!r} is no address of this machine: {error.strerror}"
        ) from None
    family, _, _, _, address = found[0]
    return family, address


def _check_exposure(config: RuntimeConfig, address: Address) -> bool:
    """Whether only this machine can reach the server; raises `ConfigError` when others can, unguarded."""
    local = ipaddress.ip_address(str(address[1][0]).partition("%")[0]).is_loopback
    if not local and not requires_token(config) and config.auth != "off":
        raise ConfigError(
            f"NEXUS_HOST: {config.host!r} is reachable by others, who could run every handler; "
            "set NEXUS_JWT_SECRET to demand tokens, or NEXUS_AUTH=off when something else guards the address"
        )
    return local


def _shared_metrics(stack: ExitStack) -> Path:
    path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nexus-metrics-")))
    prepare_multiprocess_dir(path)
    return path


def _listen(config: RuntimeConfig, address: Address) -> Sequence[socket.socket]:
    """One socket for each worker, bound but not listening yet."""
    try:
        # Alone first: sharing a port must not mean to share it with another server.
        _bound(address, shared=False).close()
        return [_bound(address, shared=config.workers > 1) for _ in range(config.workers)]
    except OSError as error:
        raise ConfigError(
            f"NEXUS_PORT: {config.port} at {config.host!r} cannot be listened on: {error.strerror}"
        ) from None


def _bound(address: Address, *, shared: bool) -> socket.socket:
    family, where = address
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound


def _work(
    runtime: Runtime,
    sockets: Sequence[socket.socket],
    index: int,
    *,
    local_only: bool,
) -> int:
    """Be one worker until told to stop; gives the exit code."""
    for other, unused in enumerate(sockets):
        if other != index:
            unused.close()
    config = runtime.config
    server = DrainingServer(
        uvicorn.Config(
            build_application(runtime, local_only=local_only),
            loop="uvloop",
            http=HttpConnection,
            ws=SocketConnection,
            ws_max_size=config.limits.max_input_bytes + MAX_ENVELOPE_BYTES,
            ws_per_message_deflate=False,
            lifespan="on",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(config.shutdown_timeout_ms / 1000),
        ),
        runtime,
    )
    try:
        server.run(sockets=[sockets[index]])
    except SystemExit as stop:
        # uvicorn's way to say that the lifespan did not start; the log has the reason.
        return int(stop.code or 0)
    return 0
