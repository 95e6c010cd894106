"""`nexus list`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from functions.cli.reports import error_lines
from functions.cli.settings import common_settings, read_settings
from functions.cli.targets import Target, handlers_of
from functions.cli.terminal import faint, harmless, say, strong
from nexus_core.errors import InvalidHandler
from nexus_core.result import ErrorInfo


class ListedHandler(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One handler in the JSON of `nexus list --json`; one that cannot be accepted has only its error."""

    name: str
    path: str
    triggers: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    error: ErrorInfo | None = None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@common_settings
def command(as_json: bool, **options: Any) -> None:
    """List the handlers, what starts them and what they may do."""
    config = read_settings(options)
    targets = list(handlers_of(config.handlers_dir, config))
    listed = [_listed(target) for target in targets]
    if as_json:
        click.echo(msgspec.json.encode(listed))
    elif listed:
        _print(targets, listed)
    else:
        say(f"there are no handlers in {config.handlers_dir}")


def _listed(target: Target) -> ListedHandler:
    if isinstance(target.outcome, InvalidHandler):
        return ListedHandler(name=target.name, path=str(target.path), error=ErrorInfo.of(target.outcome))
    manifest = target.outcome.manifest
    return ListedHandler(
        name=target.name,
        path=str(target.path),
        triggers=tuple(f"{trigger.kind} {trigger.pattern}" for trigger in manifest.triggers),
        capabilities=manifest.capabilities.tokens,
    )


def _print(targets: list[Target], listed: list[ListedHandler]) -> None:
    width = max(len(handler.name) for handler in listed)
    for target, handler in zip(targets, listed, strict=True):
        click.echo(f"{strong(handler.name.ljust(width))}  {faint(harmless(handler.path))}")
        indent = " " * (width + 2)
        for trigger in handler.triggers:
            click.echo(f"{indent}{click.style('on ', fg='cyan')} {harmless(trigger)}")
        if handler.capabilities:
            click.echo(f"{indent}{click.style('may', fg='cyan')} {harmless(', '.join(handler.capabilities))}")
        for line in error_lines(handler.error, target.folder) if handler.error else ():
            click.echo(indent + line)
