"""JSON given on the command line, in a file or on standard input; a mistake is shown where it stands."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from functions.cli.reports import snippet_lines


def read_json(given: str, option: str) -> bytes:
    """The JSON text that `given` means: itself, `@FILE`, or `-` for standard input.

    Raises `click.UsageError`, with the line and a caret, when it is not JSON.
    """
    # Trust changes hands here: what this lets through, the core takes for valid JSON.
    name, data = _read(given, option)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name}: byte {error.start} is not UTF-8") from None
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except RecursionError:
        raise click.UsageError(f"{name}: the values are nested too deep") from None
    except msgspec.DecodeError as error:
        raise click.UsageError(_explained(name, text, str(error))) from None
    return data


def read_json_object(given: str, option: str) -> dict[str, bytes]:
    """A JSON object as JSON text by key; raises `click.UsageError` for anything else."""
    data = read_json(given, option)
    try:
        members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise click.UsageError(f"{option}: an object is needed, as in '{{\"count\": 1}}'") from None
    return {key: bytes(value) for key, value in members.items()}


def _read(given: str, option: str) -> tuple[str, bytes]:
    """How a message names the source, and its bytes."""
    if given == "-":
        return f"{option} (standard input)", sys.stdin.buffer.read()
    if given.startswith("@"):
        try:
            return f"{option} {given}", Path(given[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"{option}: {given[1:]} cannot be read: {error.strerror}") from None
    return option, given.encode("utf-8", "surrogateescape")


def _explained(name: str, text: str, reason: str) -> str:
    """What is wrong and where. The fast decoder keeps no lines, so the standard one looks for the place."""
    import json

    from nexus_core.engine.snippets import snippet

    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        shown = snippet(text, error.lineno, error.colno)
        lines = "\n".join(snippet_lines(shown)) if shown else ""
        return f"{name} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})\n{lines}"
    except (ValueError, RecursionError):
        pass
    return f"{name} is not JSON: {reason}"
