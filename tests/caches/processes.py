"""Starting `worker.py`, alone or on a file system of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WORKER = (sys.executable, "-m", "tests.caches.worker")


@contextmanager
def worker(directory: Path, max_bytes: int, *steps: str) -> Iterator[subprocess.Popen[str]]:
    """A running worker; killed at the end."""
    command = [*WORKER, str(directory), str(max_bytes), *steps]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def report(process: subprocess.Popen[str]) -> Any:
    """What a worker reports; waits until it ends."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def on_own_file_system(mount_point: Path, script: str) -> list[Any]:
    """Run a shell script that may mount on `$M` and start workers by `$W`; what they report.

    Its mounts are on `mount_point`, seen by nobody else, and gone with it.
    """
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        # Some kernels give a mount namespace and then forbid to mount in it.
        probe = [*command, "mount", "-t", "tmpfs", "none", str(mount_point)]
        if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("this machine does not let us mount")
    preamble = f"set -e; M='{mount_point}'; W='{' '.join(WORKER)}'\n"
    done = subprocess.run(
        [*command, "sh", "-c", preamble + script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
