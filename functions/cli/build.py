"""`nexus build`: compile ahead of time, so that no server compiles when it starts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from functions.cli.reports import error_lines
from functions.cli.settings import common_settings, read_settings
from functions.cli.targets import Target, handlers_of
from functions.cli.terminal import EXIT_FAILED, say
from nexus_core.config import RuntimeConfig
from nexus_core.errors import NexusError
from nexus_core.result import ErrorInfo

if TYPE_CHECKING:
    from nexus_core.caches.seed import SeedWriter


class BuiltHandler(msgspec.Struct, frozen=True):
    """One handler of a build: its error, or None when it is in the seed."""

    name: str
    error: ErrorInfo | None


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A build, also as JSON: its folder, its handlers, its size, and the old entries it removed."""

    out: str
    handlers: tuple[BuiltHandler, ...]
    bytes: int
    removed: int


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder of the seed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON.")
@common_settings
@click.pass_context
def command(context: click.Context, /, out: Path, as_json: bool, **options: Any) -> None:
    """Compile all handlers, and the engine itself, into a seed cache.

    A server that finds the folder under NEXUS_CACHE_SEED_DIR compiles none of them. Machine code in
    it fits processors like this one; where it does not fit, the server compiles as without a seed.
    Exit code: 0 all handlers are in it, 1 some could not be compiled, 2 nothing could be built.
    """
    config = read_settings(options)
    targets = list(handlers_of(config.handlers_dir, config))
    if not targets:
        raise click.UsageError(f"there are no handlers in {config.handlers_dir}")
    built = _build(targets, out, config)
    if as_json:
        click.echo(msgspec.json.encode(built))
    else:
        _print(built, targets)
    if any(handler.error for handler in built.handlers):
        context.exit(EXIT_FAILED)


def _build(targets: Sequence[Target], out: Path, config: RuntimeConfig) -> Built:
    """Fill the seed; raises `CacheUnavailable` when the folder cannot be written."""
    from nexus_core.caches.memory import MemoryCache
    from nexus_core.caches.seed import SeedWriter
    from nexus_core.compiler import HandlerCompiler
    from nexus_core.engine.image import HeapImage, ImageArena
    from nexus_core.engine.javascript_kind import JavaScriptKind
    from nexus_core.engine.wasm_engine import WasmEngine
    from nexus_core.extensions.registry import ExtensionRegistry
    from nexus_core.metrics import MetricsCollector

    writer = SeedWriter(out, secret=config.cache_key.encode() if config.cache_key else None)
    cache = _WriteOnly(writer)
    engine, arena = WasmEngine(cache), ImageArena()
    # No handler is compiled twice, so none needs to stay in memory.
    memory: MemoryCache[str, HeapImage] = MemoryCache(0, lambda image: image.size)
    kind, metrics = JavaScriptKind(engine, arena), MetricsCollector(0)
    extensions = ExtensionRegistry(config)

    async def compile_all(threads: ThreadPoolExecutor) -> tuple[BuiltHandler, ...]:
        compiler = HandlerCompiler(kind, cache, memory, engine.ticker, threads, metrics)
        built = []
        with click.progressbar(
            targets,
            label="compiling",
            file=sys.stderr,
            hidden=not sys.stderr.isatty(),
            item_show_func=_name_of,
        ) as steps:
            for target in steps:
                try:
                    source = target.source()
                    extensions.check_settings(source.manifest.extensions)
                    await compiler.get(source)
                except NexusError as error:
                    built.append(BuiltHandler(target.name, ErrorInfo.of(error)))
                else:
                    built.append(BuiltHandler(target.name, None))
        return tuple(built)

    try:
        with ThreadPoolExecutor(1) as threads:
            handlers = asyncio.run(compile_all(threads))
    finally:
        engine.close()
        arena.close()
    removed = writer.remove_unused()
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    return Built(out=str(out), handlers=handlers, bytes=size, removed=removed)


class _WriteOnly:
    """The seed as a cache that has nothing: a build makes every part anew.

    A part that an earlier build left would not be asked for when what needs it is there already, as
    the TypeScript compiler's code behind a compiled handler, and would be taken for unused.
    """

    def __init__(self, writer: SeedWriter) -> None:
        self._writer = writer

    def load(self, key: str) -> bytes | None:  # noqa: ARG002 - the interface of a cache
        """Nothing, whatever is there."""
        return None

    def store(self, key: str, data: bytes) -> None:
        """Write an entry; raises `CacheUnavailable` when that cannot be done."""
        self._writer.store(key, data)


def _name_of(target: Target | None) -> str:
    return target.name if target else ""


def _print(built: Built, targets: Sequence[Target]) -> None:
    good = sum(handler.error is None for handler in built.handlers)
    for handler, target in zip(built.handlers, targets, strict=True):
        for line in error_lines(handler.error, target.folder) if handler.error else ():
            say(line)
    click.echo(f"{built.out}: {good} of {len(built.handlers)} handlers, {built.bytes / 1048576:.1f} MiB")
    if built.removed:
        click.echo(f"{built.removed} entries of earlier builds removed")
