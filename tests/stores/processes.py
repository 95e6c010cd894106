"""Starting `writer.py` and talking to it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def writer(url: str, count: int, padding: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that opens the store and commits to session `s` once told to; killed at the end."""
    command = [sys.executable, "-m", "tests.stores.writer", url, "s", str(count), str(padding)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def send_line(process: subprocess.Popen[str]) -> None:
    """Let a writer go."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
