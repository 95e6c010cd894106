"""`nexus build`: compile ahead of time, so that no server compiles when it starts."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Sequence
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
    from functions.cli.seed_compiler import MachineCode, SeedCompiler

_ARCHITECTURES = {"x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
"""Names of architectures, as AWS, containers and kernels spell them, and the kernel's name of each."""


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
@click.option("--portable", is_flag=True, help="Machine code for every processor of the architecture.")
@click.option(
    "--arch",
    type=click.Choice(tuple(_ARCHITECTURES)),
    help="Architecture of the server; default: this machine's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON.")
@common_settings
@click.pass_context
def command(
    context: click.Context, /, out: Path, portable: bool, arch: str | None, as_json: bool, **options: Any
) -> None:
    """Compile all handlers, and the engine itself, into a seed cache.

    A server that finds the folder under NEXUS_CACHE_SEED_DIR compiles none of them. Machine code in
    it fits processors like this one, with --portable all of its architecture; where it does not fit,
    the server compiles the engine when it starts. For another architecture (--arch) it is left out:
    compiled handlers fit every one, the engine does not, and cannot be compiled for it here.

    Exit code: 0 all handlers are in it, 1 some could not be compiled, 2 nothing could be built.
    """
    config = read_settings(options)
    targets = list(handlers_of(config.handlers_dir, config))
    if not targets:
        raise click.UsageError(f"there are no handlers in {config.handlers_dir}")
    code = _machine_code(portable, arch)
    if code == "none":
        say(
            f"the engine cannot be compiled for {arch} on {platform.machine()}: "
            "it is not in the seed, and each server compiles it once, when it starts"
        )
    built = _build(targets, out, config, code)
    if as_json:
        click.echo(msgspec.json.encode(built))
    else:
        _print(built, targets)
    if any(handler.error for handler in built.handlers):
        context.exit(EXIT_FAILED)


def _machine_code(portable: bool, arch: str | None) -> MachineCode:
    if arch is not None and _ARCHITECTURES[arch] != platform.machine():
        return "none"
    return "portable" if portable else "native"


def _build(targets: Sequence[Target], out: Path, config: RuntimeConfig, code: MachineCode) -> Built:
    """Fill the seed; raises `CacheUnavailable` when the folder cannot be written."""
    from functions.cli.seed_compiler import SeedCompiler

    with SeedCompiler(out, config, code) as compiler:
        handlers = asyncio.run(_compile_all(targets, compiler))
        removed = compiler.finish()
    size = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    return Built(out=str(out), handlers=handlers, bytes=size, removed=removed)


async def _compile_all(targets: Sequence[Target], compiler: SeedCompiler) -> tuple[BuiltHandler, ...]:
    """Compile one after the other, behind a progress bar where there is somebody to see it."""
    built = []
    with click.progressbar(
        targets,
        label="compiling",
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
        item_show_func=lambda target: target.name if target else "",
    ) as steps:
        for target in steps:
            try:
                await compiler.compile(target.source())
            except NexusError as error:
                built.append(BuiltHandler(target.name, ErrorInfo.of(error)))
            else:
                built.append(BuiltHandler(target.name, None))
    return tuple(built)


def _print(built: Built, targets: Sequence[Target]) -> None:
    good = sum(handler.error is None for handler in built.handlers)
    for handler, target in zip(built.handlers, targets, strict=True):
        for line in error_lines(handler.error, target.folder) if handler.error else ():
            say(line)
    click.echo(f"{built.out}: {good} of {len(built.handlers)} handlers, {built.bytes / 1048576:.1f} MiB")
    if built.removed:
        click.echo(f"{built.removed} entries of earlier builds removed")
