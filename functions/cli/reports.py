"""Errors, logs and results as people read them. Errors look like a compiler's: place, line, caret."""

from __future__ import annotations

from collections.abc import Iterator

import click

from functions.cli.terminal import faint, harmless, harmless_block, short_json, strong
from nexus_core.limits import MIB
from nexus_core.result import ErrorInfo, ErrorLocation, LogRecord, WasmResult

_LEVEL_COLOURS = {"debug": "bright_black", "info": "blue", "warn": "yellow", "error": "red"}


def error_lines(error: ErrorInfo, folder: str = "") -> Iterator[str]:
    """An error with its place in the author's source. `folder` goes before the file's name.

    The text came from a handler, or names what it did: it is made harmless here.
    """
    name = f"{error.name}: " if error.name not in {None, "Error"} else ""
    place = error.location
    message = error.message
    if place is not None:
        # A manifest's error has its place in the message as well.
        message = message.removeprefix(f"{place.file}:{place.line}:{place.column}: ")
    said = harmless_block(name + message, "  ")
    yield f"{strong(f'error[{error.code.value}]', 'red')}{strong(': ' + said)}"
    if place is not None:
        yield place_line(place, folder)
    if error.snippet:
        yield from snippet_lines(error.snippet)
    stack = (error.stack or "").splitlines()
    # One line of it would only repeat the place.
    for line in stack if len(stack) > 1 else ():
        yield faint(harmless(line))
    if error.limit is not None:
        yield f"  limit: {error.limit.name} = {error.limit.value}, used {error.limit.used}"


def place_line(place: ErrorLocation, folder: str) -> str:
    """A place in a file of the handler in `folder`, in the form editors make a link of."""
    return f"{click.style(' -->', fg='blue')} {harmless(folder + place.file)}:{place.line}:{place.column}"


def snippet_lines(snippet: str) -> Iterator[str]:
    """A source line, its number in blue, and the caret under it in red."""
    source, _, caret = snippet.partition("\n")
    for line, colour in ((source, None), (caret, "red")):
        number, _, text = line.partition(" |")
        yield f"{click.style(number + ' |', fg='blue')}{click.style(harmless(text), fg=colour)}"


def log_line(record: LogRecord) -> str:
    """One line a handler logged."""
    level = click.style(f"{harmless(record.level):<5}", fg=_LEVEL_COLOURS.get(record.level))
    return f"{level} {harmless_block(record.message, ' ' * 6)}"


def effect_lines(result: WasmResult) -> Iterator[str]:
    """What a call logged, wrote, emitted and showed, in this order."""
    for record in result.logs:
        yield log_line(record)
    for change in result.state_mutations:
        key = harmless(change.key)
        if change.op == "set":
            yield f"{click.style('state', fg='cyan')} {key} = {short_json(bytes(change.value))}"
        else:
            yield f"{click.style('state', fg='cyan')} {key} deleted"
    for event in result.events:
        payload = short_json(bytes(event.payload))
        yield f"{click.style('event', fg='magenta')} {harmless(event.name)} {payload}"
    for view in result.view_commands:
        yield f"{click.style('view ', fg='green')} {harmless(view.id)} {short_json(bytes(view.data))}"


def usage_line(result: WasmResult) -> str:
    """How long a call took and what it used."""
    used = result.metrics
    compiled = "" if used.cache_hit else ", compiled first"
    memory = f"memory {used.memory_peak_bytes / MIB:.1f} MiB"
    spent = f"{used.duration_us / 1000:.2f} ms (computing {used.cpu_us / 1000:.2f} ms, {memory}{compiled})"
    return faint(f"{result.status} in {spent}")
