"""Checks that run something: the clock, the store, the engine, the event sink and the address."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import platform
import shutil
import socket
import tempfile
import time
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from functions.cli.checks.finding import Finding
from functions.http.auth import requires_token
from nexus_core.caches.folder import CacheFolder, CacheUnavailable
from nexus_core.config import RuntimeConfig
from nexus_core.context import ExecutionContext
from nexus_core.errors import NexusError, StateConflict
from nexus_core.result import StateMutation
from nexus_core.stores.base import StateStore

SCRATCH_SESSION = "nexus-doctor"
"""The session that is written and emptied again to see that the store works."""

_SECONDS = 10.0
_CONNECT_SECONDS = 3.0
_DAY_SECONDS = 86_400.0
_DRIFT_SECONDS = 2.0
_TRIES = 3
_SQLITE = "sqlite:///"
_GUEST = "export default (event) => event.a + 1;"


class Clock(msgspec.Struct, frozen=True):
    """Seconds since the epoch: now, of a file written now, of our newest file; and what it was set by."""

    now: float
    fresh_file: float
    newest_own_file: float
    drift: float


def read_clock() -> Clock:
    """The clock as it is; takes a twentieth of a second."""
    wall, steady = time.time(), time.monotonic()
    with tempfile.NamedTemporaryFile() as file:
        fresh = os.fstat(file.fileno()).st_mtime
    time.sleep(0.05)
    drift = (time.time() - wall) - (time.monotonic() - steady)
    own = Path(__file__).parents[3]
    newest = max((path.stat().st_mtime for path in (own / "nexus_core").glob("*.py")), default=0.0)
    return Clock(time.time(), fresh, newest, drift)


def check_clock(config: RuntimeConfig, clock: Clock) -> Finding:
    """Whether the clock agrees with files and with itself; tokens and cache order depend on it."""
    day = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(clock.now))
    behind = clock.newest_own_file - clock.now
    if behind > _DAY_SECONDS:
        found = f"it is {day} here, {behind / _DAY_SECONDS:.0f} days before Nexus' own files were written"
    elif abs(clock.fresh_file - clock.now) > _DRIFT_SECONDS:
        found = f"a file written now is {abs(clock.fresh_file - clock.now):.0f} s away from the clock ({day})"
    elif abs(clock.drift) > _DRIFT_SECONDS:
        found = f"it was set by {clock.drift:.0f} s while we looked ({day})"
    else:
        return Finding(check="clock", verdict="ok", found=day)
    tokens = requires_token(config)
    why = "tokens are taken for expired, or for good too long" if tokens else "times in logs are wrong"
    return Finding(
        check="clock",
        verdict="problem" if tokens else "warning",
        found=found,
        advice=f"{why}: set the clock, or let NTP do it",
    )


def check_store(config: RuntimeConfig) -> Finding:
    """Open the store, and write, read and delete in a scratch session."""
    if config.store_url == "memory:":
        if config.workers > 1:
            advice = "each worker has a state of its own: set NEXUS_STORE_URL, or NEXUS_WORKERS=1"
            return Finding(
                check="store", verdict="problem", found="memory of each worker process", advice=advice
            )
        advice = "state ends with the process: set NEXUS_STORE_URL to keep it"
        return Finding(check="store", verdict="ok", found="memory of the process", advice=advice)
    kind = config.store_url.partition(":")[0]
    if config.store_url.startswith(_SQLITE):
        path = Path(config.store_url.removeprefix(_SQLITE))
        try:
            path.stat()
        except FileNotFoundError:
            return _check_new_database(path)
        except OSError as error:
            found = f"sqlite: {path} cannot be used: {error.strerror}"
            advice = f"user {os.geteuid()} must be able to read and write it, or set NEXUS_STORE_URL"
            return Finding(check="store", verdict="problem", found=found, advice=advice)
    trouble = _store_trouble(config.store_url)
    if trouble is None:
        return Finding(check="store", verdict="ok", found=f"{kind}: wrote, read and deleted")
    advice = (
        "the user of the server must be able to write it; is the disk full, or the file of another program?"
    )
    return Finding(check="store", verdict="problem", found=f"{kind}: {trouble}", advice=advice)


def _check_new_database(path: Path) -> Finding:
    """A database that the start will make: tried beside it, since it would belong to whoever asked."""
    if not path.parent.is_dir():
        found = f"sqlite: {path} cannot be made: {path.parent} is not there"
        advice = f"mkdir -p {path.parent}, or set NEXUS_STORE_URL"
        return Finding(check="store", verdict="problem", found=found, advice=advice)
    try:
        with tempfile.TemporaryDirectory(prefix="nexus-doctor-", dir=path.parent) as scratch:
            trouble = _store_trouble(f"{_SQLITE}{scratch}/try.db")
    except OSError as error:
        trouble = error.strerror
    if trouble is None:
        return Finding(check="store", verdict="ok", found=f"sqlite: {path} will be made at the start")
    advice = f"user {os.geteuid()} must be able to write to {path.parent}, or set NEXUS_STORE_URL"
    found = f"sqlite: {path} cannot be made: {trouble}"
    return Finding(check="store", verdict="problem", found=found, advice=advice)


def _store_trouble(url: str) -> str | None:
    """What went wrong, in words without secrets; None when the store works."""
    from nexus_core.stores.open import open_state_store

    async def attempt() -> None:
        store = open_state_store(url)
        try:
            await asyncio.wait_for(_write_read_delete(store), _SECONDS)
        finally:
            await store.close()

    try:
        asyncio.run(attempt())
    except TimeoutError:
        return f"no answer within {_SECONDS:.0f} s"
    except NexusError as error:
        return error.message
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


async def _write_read_delete(store: StateStore) -> None:
    wanted = os.urandom(8).hex().encode()
    value = msgspec.Raw(b'"' + wanted + b'"')
    for left in reversed(range(_TRIES)):
        version = (await store.load(SCRATCH_SESSION)).version
        try:
            version = await store.commit(
                SCRATCH_SESSION, version, "doctor", [StateMutation("set", "try", value)], []
            )
            found = (await store.load(SCRATCH_SESSION)).values.get("try")
            await store.commit(SCRATCH_SESSION, version, "doctor", [StateMutation("delete", "try")], [])
        except StateConflict:
            # Another doctor at work.
            if not left:
                raise
            continue
        if found is None or bytes(found) != bytes(value):
            raise OSError(0, "what was written did not come back")
        return


def check_engine(config: RuntimeConfig) -> Finding:
    """Start the engine and run one call, on a copy of its machine code: a cache may be dropped by reading."""
    from nexus_core.build import build_runtime
    from nexus_core.handlers import load_handler

    with tempfile.TemporaryDirectory(prefix="nexus-doctor-") as scratch:
        path = Path(scratch, "doctor.js")
        path.write_text(_GUEST)
        quiet = msgspec.structs.replace(
            config,
            handlers_dir=Path(scratch),
            cache_dir=_copied_code(config.cache_dir, Path(scratch, "cache")),
            min_instances=0,
            max_instances=1,
            store_url="memory:",
            event_sink="none:",
            log_level="error",
            log_format="text",
        )
        source = load_handler(path, config.limits)

        async def call() -> tuple[msgspec.Raw, str | None]:
            runtime = build_runtime(quiet)
            await runtime.start()
            context = ExecutionContext(request_id=os.urandom(16).hex(), event=b'{"a":41}')
            result = await runtime.execute_source(source, context)
            await runtime.shutdown(0)
            return result.return_value, result.error.message if result.error else None

        started = time.perf_counter()
        value, error = asyncio.run(call())
    took = time.perf_counter() - started
    versions = f"wasmtime {metadata.version('wasmtime')}, {platform.machine()}"
    if error is not None or bytes(value) != b"42":
        found = f"a call of {_GUEST!r} failed: {error or bytes(value).decode(errors='replace')}"
        advice = "install Nexus again with the versions it asks for; a log line above may say more"
        return Finding(check="engine", verdict="problem", found=f"{found} ({versions})", advice=advice)
    return Finding(
        check="engine", verdict="ok", found=f"one call answered {took:.1f} s after the start ({versions})"
    )


def _copied_code(cache: Path, copy: Path) -> Path:
    """A cache of our own with the engine's machine code from `cache`, as far as the server would trust it."""
    copy.mkdir(0o700)
    try:
        with CacheFolder(cache, None, frozenset((os.geteuid(),))) as folder:
            # A handler's entry is named by a digest alone.
            names = [file.name for file in folder.files() if "-" in file.name]
        for path in (cache / name for name in ("key", *names)):
            if path.is_file() and not path.is_symlink() and path.stat().st_uid == os.geteuid():
                Path(shutil.copy2(path, copy)).chmod(0o600)
    except (CacheUnavailable, OSError):
        # The check of the cache says what is wrong with it; here the engine is compiled.
        pass
    return copy


def check_sink(config: RuntimeConfig) -> Finding:
    """Whether something listens where events go; nothing is sent."""
    if not config.event_sink.startswith(("http://", "https://")):
        return Finding(check="event sink", verdict="ok", found=config.event_sink)
    try:
        parts = urlsplit(config.event_sink)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = parts.hostname or ""
    except ValueError:
        return Finding(check="event sink", verdict="problem", found="NEXUS_EVENT_SINK is no URL")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    # A name that can be none is a UnicodeError of the resolver's.
    except (OSError, UnicodeError) as error:
        found = f"{host}:{port} cannot be reached: {getattr(error, 'strerror', None) or 'no such name'}"
        advice = "calls that emit events fail after three tries: start it, or allow the way to it (egress)"
        return Finding(check="event sink", verdict="problem", found=found, advice=advice)
    return Finding(check="event sink", verdict="ok", found=f"{host}:{port} takes connections")


def check_address(config: RuntimeConfig) -> Finding:
    """Who reaches the server, whether they need a token, and whether the port can be had."""
    where = f"{config.host}:{config.port}"
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such name"
        text = f"{config.host} is no address of this machine: {why}"
        return Finding(check="address", verdict="problem", found=text, advice="set NEXUS_HOST")
    family, _, _, _, address = found[0]
    local = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    taken = _bind_trouble(family, address)
    guarded = requires_token(config)
    said = f"{where}, {'tokens are demanded' if guarded else 'no tokens'}, {taken or 'the port is free'}"
    if not local and not guarded and config.auth != "off":
        advice = (
            "the server refuses to start: set NEXUS_JWT_SECRET, or NEXUS_AUTH=off behind a guard of your own"
        )
        return Finding(
            check="address", verdict="problem", found=f"{said}, and others reach it", advice=advice
        )
    if not local and not guarded:
        advice = "whoever reaches it may run every handler: something before it must ask who they are"
        return Finding(
            check="address", verdict="warning", found=f"{said}, and others reach it", advice=advice
        )
    if taken is not None:
        advice = "fine if that is the running server; else set NEXUS_PORT"
        return Finding(check="address", verdict="warning", found=said, advice=advice)
    return Finding(check="address", verdict="ok", found=said)


def _bind_trouble(family: socket.AddressFamily, address: object) -> str | None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)  # type: ignore[arg-type]
        except OSError as error:
            return f"it cannot be listened on: {error.strerror}"
    return None
