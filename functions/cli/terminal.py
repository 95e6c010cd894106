"""What a terminal may be shown: hostile text made harmless, and colour where there is a terminal."""

from __future__ import annotations

import re

import click
import msgspec

EXIT_FAILED = 1
"""Exit code: a handler failed, or did not pass its check."""
EXIT_USAGE = 2
"""Exit code: the command could not be carried out as it was given."""

# Everything that moves a cursor, changes colours or the direction of text; tabs may stay.
_CONTROL = r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


def harmless(text: str) -> str:
    """Text of a handler or a caller, with every character that could steer a terminal shown as an escape."""
    # Most text is plain; the pattern is compiled for the first that is not.
    return text if text.isprintable() else re.sub(_CONTROL, _escaped, text)


def harmless_block(text: str, indent: str) -> str:
    """`harmless` text whose line ends stay; `indent` keeps its lines from looking like lines of ours."""
    return f"\n{indent}".join(harmless(line) for line in text.split("\n"))


def pretty_json(text: bytes) -> str:
    """JSON text over several lines; equal to what came in, and harmless on a terminal."""
    shown = msgspec.json.format(text, indent=2).decode("utf-8", "replace")
    # Such characters stand only inside strings, where the escape means the same; line feeds are ours.
    return "\n".join(harmless(line) for line in shown.split("\n"))


def short_json(text: bytes, most: int = 200) -> str:
    """JSON text on one line, cut to `most` characters; harmless on a terminal."""
    shown = harmless(msgspec.json.format(text, indent=-1).decode("utf-8", "replace"))
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def say(text: str = "") -> None:
    """Write a line to standard error, where everything goes that is not the command's result."""
    click.echo(text, err=True)


def faint(text: str) -> str:
    """Text for what is only there for completeness."""
    return click.style(text, dim=True)


def strong(text: str, colour: str | None = None) -> str:
    """Text that carries the message."""
    return click.style(text, fg=colour, bold=True)
