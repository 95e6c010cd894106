"""The container's entry as a process of its own, started as a platform would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.http.serving import Server, await_ready, end, environment, free_port

ENTRY = (sys.executable, "-m", "functions.knative")


class Container(Server):
    """A running container entry, and what it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        super().__init__(process, port)
        self._folder = folder

    def await_ready(self) -> None:
        """Ask until it says that it takes calls."""
        await_ready(self, self._folder / "err")

    def logged(self) -> list[dict[str, Any]]:
        """The lines on standard output, each of which is a JSON object."""
        return [json.loads(line) for line in (self._folder / "out").read_text().splitlines()]

    def complaints(self) -> str:
        """What is on standard error."""
        return (self._folder / "err").read_text()


@contextmanager
def container(
    folder: Path, *, command: Sequence[str] = ENTRY, ready: bool = True, **settings: Any
) -> Iterator[Container]:
    """The entry with PORT set and no standard input; `ready` waits until it takes calls."""
    port = free_port()
    env = {**environment(folder, auth="off", log_format="json", **settings), "PORT": str(port)}
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    started = Container(process, port, folder)
    try:
        if ready:
            started.await_ready()
        yield started
    finally:
        end(process)


def root_command(script: str, *arguments: object) -> list[str]:
    """A command for a shell that is root in mounts of its own; skips the test where none can be had."""
    if os.geteuid() != 0:
        pytest.skip("only root may have mounts of its own")
    shell = ["unshare", "--mount", "--propagation", "private", "sh", "-euc"]
    probe = subprocess.run([*shell, "mount -t tmpfs none /mnt"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no mounts of one's own here: {probe.stderr.decode().strip()}")
    return [*shell, script, "sh", *map(str, arguments)]
