"""Runs the `nexus` command in this process, and as one of its own where that is what counts."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from functions.cli.main import main

PROGRAM = str(Path(sys.executable).with_name("nexus"))


class Outcome(NamedTuple):
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


class Command:
    """The `nexus` command, in `folder`, with a cache that its runs share."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.environ: Mapping[str, str] = {
            "NEXUS_CACHE_DIR": str(cache),
            "NEXUS_STORE_URL": f"sqlite:///{folder}/nexus.db",
        }

    def __call__(self, *arguments: str, stdin: bytes = b"", **variables: str) -> Outcome:
        """Run it in this process; `variables` go beside `environ`."""
        out, err = io.BytesIO(), io.BytesIO()
        with pytest.MonkeyPatch.context() as patch, _logging_restored():
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["nexus", *arguments])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
            patch.setattr(sys, "stderr", io.TextIOWrapper(err, write_through=True))
            for name, value in {**self.environ, **variables}.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as stop:
                main()
            code = stop.value.code
            assert isinstance(code, int)
            return Outcome(code, out.getvalue().decode(), err.getvalue().decode())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it as a process of its own, whose two outputs are one pipe."""
        return subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def write(self, path: str, text: str) -> Path:
        """Put a file into the folder; gives its path."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target


@contextmanager
def _logging_restored() -> Iterator[None]:
    """A runtime takes over the process's logging: give it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
