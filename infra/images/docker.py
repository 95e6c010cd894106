"""The docker command, and the error of every step that did not work."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


class StepFailed(Exception):
    """A step did not work; the message says which, and what the program said."""


def run(command: Sequence[str], *, environ: Mapping[str, str] | None = None) -> str:
    """The standard output of a program; raises `StepFailed` unless it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise StepFailed(f"{' '.join(command)[:200]} ended with code {done.returncode}: {said}")
    return done.stdout


class Docker:
    """The docker command against one engine."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __call__(self, *arguments: str) -> str:
        """What one docker command prints; raises `StepFailed` unless it succeeds."""
        return run(["docker", *arguments], environ=self._environ).strip()

    def is_there(self) -> bool:
        """Whether an engine answers."""
        try:
            self("version", "--format", "{{.Server.Version}}")
        except (StepFailed, FileNotFoundError):
            return False
        return True

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or an image."""
        (found,) = json.loads(self("inspect", name))
        return dict(found)
