"""What a terminal may be shown: hostile text made harmless, and colour where there is a terminal."""

from __future__ import annotations

import re

import click
import msgspec

EXIT_FAILED = 1
"""Exit code: a handler failed, or did not pass its check."""
EXIT_USAGE = 2
"""Exit code: the command could not be carried out as it was given."""

# Everything that moves a cursor, changes colours or the direction of text; line feeds and tabs may stay.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# In JSON text, characters like these stand only inside strings, where an escape means the same.
_JSON_CONTROL = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Text of a handler or a caller, with every character that could steer a terminal shown as an escape."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def pretty_json(text: bytes) -> str:
    """JSON text over several lines; equal to what came in, and harmless on a terminal."""
    shown = msgspec.json.format(text, indent=2).decode("utf-8", "replace")
    return _JSON_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", shown)


def short_json(text: bytes, most: int = 200) -> str:
    """JSON text on one line, cut to `most` characters; harmless on a terminal."""
    shown = harmless(text.decode("utf-8", "replace").replace("\n", " "))
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def say(text: str = "") -> None:
    """Write a line to standard error, where everything goes that is not the command's result."""
    click.echo(text, err=True)


def faint(text: str) -> str:
    """Text for what is only there for completeness."""
    return click.style(text, dim=True)


def strong(text: str, colour: str | None = None) -> str:
    """Text that carries the message."""
    return click.style(text, fg=colour, bold=True)
