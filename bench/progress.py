"""The progress bar: one line on stderr that rewrites itself, and nothing at all when that is no terminal."""

from __future__ import annotations

from typing import TextIO

_WIDTH = 24


class Progress:
    """Tells how many of the rows are done and what is being measured now."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total = max(total, 1)
        self._done = 0
        self._stream = stream
        self._shown = stream.isatty()

    def doing(self, what: str) -> None:
        """Show what is being measured now."""
        if self._shown:
            filled = _WIDTH * self._done // self._total
            bar = "#" * filled + "." * (_WIDTH - filled)
            self._stream.write(f"\r\x1b[2K[{bar}] {self._done}/{self._total} {what}")
            self._stream.flush()

    def done(self, rows: int = 1) -> None:
        """Count rows as measured."""
        self._done = min(self._done + rows, self._total)

    def close(self) -> None:
        """Wipe the bar."""
        if self._shown:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
