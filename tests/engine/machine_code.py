"""The engine's machine code on disk, which takes three seconds of processor time to compile."""

from pathlib import Path

from nexus_core.caches.disk import DiskCache
from nexus_core.engine.image import ImageArena
from nexus_core.engine.javascript import JavaScriptEngine
from nexus_core.engine.typescript import TypeScriptStripper
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.limits import MIB


def disk_cache(folder: Path) -> DiskCache:
    """A disk cache whose reports nobody wants."""
    return DiskCache(
        folder,
        secret=None,
        max_bytes=64 * MIB,
        on_event=lambda _tier, _result: None,
        on_degraded=lambda _reason: None,
    )


def compile_engine(folder: Path) -> None:
    """Make a disk cache of the code of both guests, QuickJS and the TypeScript stripper."""
    engine, arena = WasmEngine(disk_cache(folder)), ImageArena()
    JavaScriptEngine(engine, arena)
    TypeScriptStripper(engine.engine, engine.load_module).strip("any.ts", "let any: number;")
    engine.close()
    arena.close()
