"""The folders a server would use: handlers, the disk cache, the seed."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from functions.cli.checks.finding import Finding, counted, size_text
from functions.cli.checks.host import file_system
from nexus_core.caches.folder import CacheFolder, CacheUnavailable, DamagedEntry, unavailable
from nexus_core.config import RuntimeConfig
from nexus_core.errors import NexusError
from nexus_core.handlers import HandlerRegistry, HandlerSource

_MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
_MOST_LINES = 10


def accepted(registry: HandlerRegistry | None) -> list[HandlerSource]:
    """The handlers that are served."""
    if registry is None:
        return []
    return [registry.get(name) for name in registry.names() if name not in registry.errors()]


def check_handlers(config: RuntimeConfig, registry: HandlerRegistry | None) -> Finding:
    """Whether the handlers folder can be read, and which handlers are refused."""
    folder = config.handlers_dir
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        found = f"{folder} cannot be read: {error.strerror}"
        advice = "the server's user must be able to read it: make it so, or set NEXUS_HANDLERS_DIR"
        return Finding(check="handlers", verdict="problem", found=found, advice=advice)
    names, errors = (registry.names(), registry.errors()) if registry else ((), {})
    if errors:
        lines = [f"{name}: {error.message}" for name, error in sorted(errors.items())]
        found = f"{len(errors)} of {len(names)} handlers in {folder} are refused"
        return Finding(
            check="handlers",
            verdict="problem",
            found=found,
            detail=_first(lines),
            advice="`nexus check` shows each with its place; the others are served",
        )
    if not names:
        advice = "a handler is one file, such as hello.js: see docs/handlers.md"
        return Finding(check="handlers", verdict="warning", found=f"none in {folder}", advice=advice)
    return Finding(check="handlers", verdict="ok", found=f"{len(names)} in {folder}, all accepted")


def check_cache(config: RuntimeConfig) -> Finding:
    """Whether the disk cache would be used. Nothing is made: it would belong to whoever asked."""
    folder = config.cache_dir
    try:
        with CacheFolder(folder, None, frozenset((os.geteuid(),))) as opened:
            taken = sum(file.bytes for file in opened.files())
    except FileNotFoundError:
        return _check_parent(config)
    except (CacheUnavailable, OSError) as error:
        trouble = error if isinstance(error, CacheUnavailable) else unavailable(error, writing=False)
        return Finding(
            check="cache",
            verdict="problem",
            found=f"{folder} would not be used ({trouble.reason}): {trouble.message}",
            advice=_cache_advice(trouble.reason),
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        found = f"{folder} would not be used (read_only): nothing can be written there"
        return Finding(check="cache", verdict="problem", found=found, advice=_cache_advice("read_only"))
    return _check_room(config, folder, taken, f"{folder} is ours, with {size_text(taken)} in it")


def cache_in_memory(config: RuntimeConfig) -> bool:
    """Whether files of the disk cache count as memory, as on an emptyDir with `medium: Memory`."""
    return file_system(config.cache_dir) in _MEMORY_FILE_SYSTEMS


def check_seed(config: RuntimeConfig, registry: HandlerRegistry | None) -> Finding:
    """Whether the seed may be trusted, fits this processor and wasmtime, and holds all handlers."""
    folder = config.cache_seed_dir
    if folder is None:
        return Finding(check="seed", verdict="ok", found="none is set; what is not in the cache is compiled")
    probe = _SeedProbe(folder, config)
    try:
        missing = _missing_handlers(probe, accepted(registry))
    except _NotThere:
        found = f"{folder} holds no machine code of this version of the engine"
        advice = "the first start compiles the engine: make the seed with this version's `nexus build`"
        return Finding(check="seed", verdict="warning", found=found, advice=advice)
    except (CacheUnavailable, DamagedEntry, OSError) as error:
        return _refused_seed(folder, error)
    return _seed_finding(folder, missing, misfits=probe.misfits > 0)


def _refused_seed(folder: Path, error: CacheUnavailable | DamagedEntry | OSError) -> Finding:
    if isinstance(error, DamagedEntry):
        found = f"{folder}: {error.message}"
        advice = "set the NEXUS_CACHE_KEY it was built with, or build it again"
        return Finding(check="seed", verdict="problem", found=found, advice=advice)
    trouble = error if isinstance(error, CacheUnavailable) else unavailable(error, writing=False)
    found = f"{folder} is not used ({trouble.reason}): {trouble.message}"
    advice = (
        "it must be there, and only root or this user may be able to write to it: `nexus build --out` again"
    )
    return Finding(check="seed", verdict="problem", found=found, advice=advice)


def _seed_finding(folder: Path, missing: tuple[str, ...], *, misfits: bool) -> Finding:
    """What a seed that may be trusted is good for."""
    if misfits:
        found = f"the machine code in {folder} does not fit this processor or this wasmtime"
        advice = "the first start compiles the engine: build it on such a machine, or with --portable"
        return Finding(check="seed", verdict="warning", found=found, advice=advice)
    if missing:
        found = f"{folder} fits, but lacks {counted(len(missing), 'handler')}"
        advice = "`nexus build` again after handlers change: these are compiled at their first call"
        detail = _first(list(missing))
        return Finding(check="seed", verdict="warning", found=found, detail=detail, advice=advice)
    return Finding(check="seed", verdict="ok", found=f"{folder} fits, and holds every handler")


class _NotThere(Exception):
    """The seed has nothing under a key: what stops a compile before it begins."""


class _SeedProbe:
    """The seed as a cache that never lets anything be compiled for want of an entry."""

    def __init__(self, folder: Path, config: RuntimeConfig) -> None:
        self._folder = folder
        self._secret = config.cache_key.encode() if config.cache_key else None
        self.misfits = 0

    def load(self, key: str) -> bytes:
        """The verified bytes of `key`; raises `_NotThere`, or what is wrong with the seed."""
        owners = frozenset((0, os.geteuid()))
        with CacheFolder(self._folder, self._secret, owners, read_only_mount=True) as folder:
            data = folder.load(key)
        if data is None:
            raise _NotThere
        return data

    def store(self, key: str, data: bytes) -> None:  # noqa: ARG002 - the interface of a cache
        """Only what was there and did not fit is compiled, and comes back."""
        self.misfits += 1


def _missing_handlers(probe: _SeedProbe, sources: Sequence[HandlerSource]) -> tuple[str, ...]:
    """The accepted handlers that the seed lacks; raises what hinders the engine itself."""
    from nexus_core.caches.memory import MemoryCache
    from nexus_core.compiler import HandlerCompiler
    from nexus_core.engine.image import HeapImage, ImageArena
    from nexus_core.engine.javascript_kind import JavaScriptKind
    from nexus_core.engine.wasm_engine import WasmEngine
    from nexus_core.metrics import MetricsCollector

    async def look(compiler: HandlerCompiler) -> tuple[str, ...]:
        missing = []
        for source in sources:
            try:
                await compiler.get(source)
            except (_NotThere, DamagedEntry, NexusError):
                missing.append(source.name)
        return tuple(missing)

    with ExitStack() as parts:
        arena = ImageArena()
        parts.callback(arena.close)
        engine = WasmEngine(probe)
        parts.callback(engine.close)
        kind = JavaScriptKind(engine, arena)
        if probe.misfits:
            return ()
        threads = parts.enter_context(ThreadPoolExecutor(1))
        memory: MemoryCache[str, HeapImage] = MemoryCache(0, lambda image: image.size)
        compiler = HandlerCompiler(kind, probe, memory, engine.ticker, threads, MetricsCollector(0))
        return asyncio.run(look(compiler))


def _check_parent(config: RuntimeConfig) -> Finding:
    folder, parent = config.cache_dir, config.cache_dir.parent
    if not parent.is_dir():
        found = f"{folder} is not there, and neither is {parent}, which is not made"
        advice = f"mkdir -p {parent}, or set NEXUS_CACHE_DIR: without it handlers are compiled at every start"
        return Finding(check="cache", verdict="problem", found=found, advice=advice)
    if not os.access(parent, os.W_OK | os.X_OK):
        found = f"{folder} is not there, and user {os.geteuid()} may not make it"
        return Finding(check="cache", verdict="problem", found=found, advice=_cache_advice("read_only"))
    return _check_room(config, parent, 0, f"{folder} will be made at the start")


def _check_room(config: RuntimeConfig, folder: Path, taken: int, found: str) -> Finding:
    """Free space against what the cache may still take."""
    status = os.statvfs(folder)
    if status.f_flag & os.ST_RDONLY:
        found = f"{config.cache_dir} would not be used (read_only): its file system is"
        return Finding(check="cache", verdict="problem", found=found, advice=_cache_advice("read_only"))
    free, wanted = status.f_bavail * status.f_frsize, max(0, config.max_cache_size_bytes - taken)
    if free < wanted:
        advice = f"free some, or set NEXUS_MAX_CACHE_SIZE_BYTES to less than {size_text(free + taken)}"
        found = f"{found}; {size_text(free)} are free, and it may take {size_text(wanted)} more"
        return Finding(check="cache", verdict="warning", found=found, advice=advice)
    mode = stat.S_IMODE(folder.stat().st_mode) if folder == config.cache_dir else 0o700
    return Finding(check="cache", verdict="ok", found=f"{found}; mode {mode:04o}, {size_text(free)} free")


def _cache_advice(reason: str) -> str:
    if reason == "foreign_owner":
        return (
            "give it to the server's user (chown), or ask as that user; each user needs a folder of its own"
        )
    if reason == "writable_by_others":
        return "chmod 700: what is in it gets executed, so nobody else may write there"
    if reason in {"read_only", "unreadable"}:
        return "mount a folder there that the server's user may write, or set NEXUS_CACHE_DIR"
    return "remove it, and it is made anew; without it handlers are compiled at every start"


def _first(lines: list[str]) -> tuple[str, ...]:
    more = len(lines) - _MOST_LINES
    return (*lines[:_MOST_LINES], *((f"and {more} more",) if more > 0 else ()))
