"""The progress bar."""

from __future__ import annotations

import io

from bench.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_a_terminal_sees_what_is_being_measured() -> None:
    """The bar fills with the rows that are done, and is wiped at the end."""
    terminal = Terminal()
    progress = Progress(2, terminal)
    progress.done()
    progress.doing("http.workerd")
    progress.close()
    assert "[############............] 1/2 http.workerd" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_a_file_or_pipe_sees_nothing() -> None:
    """Logs of CI stay free of control characters."""
    pipe = io.StringIO()
    progress = Progress(2, pipe)
    progress.doing("http.workerd")
    progress.close()
    assert not pipe.getvalue()
