"""`nexus check`: does a handler compile, and does its manifest say what its code does?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click
import msgspec

from functions.cli.reports import error_lines, place_line, snippet_lines
from functions.cli.settings import common_settings, read_settings, setting
from functions.cli.targets import Target, find_handlers, handlers_of
from functions.cli.terminal import EXIT_FAILED, faint, harmless, say, strong
from functions.cli.uses import Use, find_uses
from nexus_core.capabilities import CapabilitySet
from nexus_core.config import RuntimeConfig
from nexus_core.engine.snippets import snippet
from nexus_core.errors import InvalidHandler, NexusError
from nexus_core.handler_source import HandlerSource
from nexus_core.result import ErrorInfo, ErrorLocation


class MissingCapability(msgspec.Struct, frozen=True):
    """A use that the manifest does not cover: the call would end with PERMISSION_DENIED there."""

    token: str
    text: str
    location: ErrorLocation
    snippet: str | None


class CheckedHandler(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one handler; also its form in the JSON of `nexus check --json`.

    `needs` are the capabilities its code plainly uses, `missing` those uses its manifest does not
    cover, `unused` what the manifest allows and the code does not seem to use, `unknown` the uses
    whose name is computed.
    """

    name: str
    path: str
    ok: bool
    error: ErrorInfo | None = None
    needs: tuple[str, ...] = ()
    missing: tuple[MissingCapability, ...] = ()
    unused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH|NAME]...")
@click.option(
    "--strict", is_flag=True, help="Fail also when a manifest lacks a capability that the code uses."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@common_settings
@setting("cache_dir", "Folder of the disk cache.", "DIR")
@click.pass_context
def command(
    context: click.Context, /, paths: Sequence[str], strict: bool, as_json: bool, **options: Any
) -> None:
    """Compile handlers without calling them, and compare their code with their manifest.

    A folder of handlers stands for all of them; with no PATH it is the handlers folder. Exit code:
    0 all pass, 1 some do not, 2 nothing there to check.
    """
    config = read_settings(options)
    if paths:
        targets = [target for path in paths for target in find_handlers(path, config)]
    else:
        targets = list(handlers_of(config.handlers_dir, config))
    if not targets:
        raise click.UsageError(f"there are no handlers in {', '.join(paths) or config.handlers_dir}")
    checked = _check_all(targets, config)
    if as_json:
        click.echo(msgspec.json.encode(checked))
    else:
        for target, found in zip(targets, checked, strict=True):
            for line in _lines(found, target.folder):
                click.echo(line)
        _print_sum(checked)
    if any(not found.ok or (strict and found.missing) for found in checked):
        context.exit(EXIT_FAILED)


def _check_all(targets: Sequence[Target], config: RuntimeConfig) -> list[CheckedHandler]:
    from nexus_core.build import build_runtime

    quiet = msgspec.structs.replace(
        config, min_instances=0, max_instances=1, store_url="memory:", log_level="error", log_format="text"
    )
    runtime = build_runtime(quiet)

    async def check_all() -> list[CheckedHandler]:
        errors: list[NexusError | None] = []
        for target in targets:
            try:
                await runtime.check(target.source())
            except NexusError as error:
                errors.append(error)
            else:
                errors.append(None)
        await runtime.shutdown(0)
        return [_checked(target, error) for target, error in zip(targets, errors, strict=True)]

    return asyncio.run(check_all())


def _checked(target: Target, error: NexusError | None) -> CheckedHandler:
    info = ErrorInfo.of(error) if error else None
    if isinstance(target.outcome, InvalidHandler):
        return CheckedHandler(name=target.name, path=str(target.path), ok=False, error=info)
    source = target.outcome
    uses = list(find_uses(source.files))
    granted = source.manifest.capabilities
    return CheckedHandler(
        name=target.name,
        path=str(target.path),
        ok=error is None,
        error=info,
        needs=CapabilitySet.parse(_tokens(uses)).tokens,
        missing=tuple(_missing(uses, granted, source)),
        unused=tuple(_unused(uses, granted)),
        unknown=tuple(
            f"{use.location.file}:{use.location.line}:{use.location.column} {use.text}"
            for use in uses
            if use.name is None
        ),
        triggers=tuple(f"{trigger.kind} {trigger.pattern}" for trigger in source.manifest.triggers),
    )


def _tokens(uses: Iterable[Use]) -> list[str]:
    return list(dict.fromkeys(use.token for use in uses if use.token is not None))


def _missing(
    uses: Iterable[Use], granted: CapabilitySet, source: HandlerSource
) -> Iterator[MissingCapability]:
    """The first use of each capability that is not granted."""
    seen: set[str] = set()
    for use in uses:
        if use.token is None or use.token in seen or _covers(granted, use.token):
            continue
        seen.add(use.token)
        place = use.location
        shown = snippet(source.files[place.file], place.line, place.column)
        yield MissingCapability(use.token, use.text, ErrorLocation(**place._asdict()), shown)


def _covers(granted: CapabilitySet, token: str) -> bool:
    wanted = CapabilitySet.parse([token])
    return wanted.narrowed(granted) == wanted


def _unused(uses: Sequence[Use], granted: CapabilitySet) -> Iterator[str]:
    """Granted tokens that no use needs; of a kind with a computed name, nothing can be told."""
    used = CapabilitySet.parse(_tokens(uses))
    unknown_kinds = {use.kind for use in uses if use.name is None}
    for token in granted.tokens:
        kind = token.rpartition(":")[0] if token.count(":") == 1 else ":".join(token.split(":")[:2])
        if kind not in unknown_kinds and not CapabilitySet.parse([token]).narrowed(used):
            yield token


def _lines(found: CheckedHandler, folder: str) -> Iterator[str]:
    """One handler's findings for people."""
    mark = strong("ok  ", "green") if found.ok else strong("FAIL", "red")
    yield f"{mark} {strong(found.name)}  {faint(harmless(found.path))}"
    if found.error is not None:
        yield from (f"     {line}" for line in error_lines(found.error, folder))
    if found.needs:
        yield f"     needs {harmless(', '.join(found.needs))}"
    for missing in found.missing:
        needs = f"{harmless(missing.text)} needs {harmless(missing.token)}"
        yield f"     {strong('warning', 'yellow')}: {needs}, which the manifest lacks"
        yield f"     {place_line(missing.location, folder)}"
        if missing.snippet:
            yield from (f"     {line}" for line in snippet_lines(missing.snippet))
    for token in found.unused:
        yield f"     note: the manifest allows {harmless(token)}, which the code does not seem to use"
    for use in found.unknown:
        yield f"     note: which capability it needs is not written there: {harmless(use)}"


def _print_sum(checked: Sequence[CheckedHandler]) -> None:
    failed = sum(not found.ok for found in checked)
    warned = sum(bool(found.missing) for found in checked)
    say(f"{len(checked)} checked, {failed} failed, {warned} with capabilities missing")
