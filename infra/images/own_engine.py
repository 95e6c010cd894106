"""An engine of our own for a machine without one: dockerd, without a network, and a base image made here.

Outside, with the network: Debian's packages become the base image, and the libraries an index in a folder.
Inside a network namespace with a loopback device and nothing else: dockerd, and a server of that index. So
the build can reach packages and nothing besides, and the machine's own network stays as it is.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.images.docker import Docker, StepFailed, run

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = "bookworm"
DEBIAN_PYTHON = "3.11"
BASE = "nexus-base:stand-in"
NEEDS = ("dockerd", "containerd", "runc", "mmdebstrap", "unshare", "ip", "docker")
_START_SECONDS = 30
# Without manuals, as published slim images are. Perl comes along to set up packages, and is not used later.
_SLIM = (
    "--include=python3,python3-venv,ca-certificates",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
    '--customize-hook=rm -r "$1"/usr/share/perl "$1"/usr/lib/*/perl',
)


def prepare(folder: Path) -> None:
    """Fetch what the engine will need into `folder`; raises `StepFailed`."""
    missing = [name for name in NEEDS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise StepFailed(
            f"no engine answers `docker version`. One is started here by root with {', '.join(NEEDS)} "
            f"(Debian: docker.io mmdebstrap iproute2); missing: {', '.join(missing) or 'root'}"
        )
    run(["mmdebstrap", "--quiet", "--variant=minbase", *_SLIM, DEBIAN, str(folder / "base.tar")])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wheels = folder / "wheels"
    run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels)),
            *("--only-binary=:all:", "--python-version", DEBIAN_PYTHON),
            *("--constraint", str(ROOT / "constraints.txt"), *wanted),
        ]
    )
    for wheel in wheels.iterdir():
        project_folder = folder / "index" / re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        project_folder.mkdir(parents=True, exist_ok=True)
        wheel.rename(project_folder / wheel.name)


def enter(arguments: Sequence[str]) -> int:
    """Run this program again in a network namespace of its own; its exit code."""
    again = [sys.executable, "-m", "infra.images", *arguments]
    return subprocess.run(["unshare", "--net", *again], cwd=ROOT, check=False).returncode


@contextmanager
def engine(folder: Path) -> Iterator[Docker]:
    """A running engine that has the base image; everything of it is in `folder`, and ends with the block."""
    run(["ip", "link", "set", "lo", "up"])
    socket = f"unix://{folder}/docker.sock"
    # Without these dockerd would change the machine's packet filter and turn on its forwarding.
    harmless = ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none"]
    places = [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(
            ["dockerd", "--storage-driver=overlay2", "--host", socket, *harmless, *places],
            stdout=log,
            stderr=log,
        )
    docker = Docker(os.environ | {"DOCKER_HOST": socket})
    try:
        _wait_until_it_answers(docker, process, folder / "dockerd.log")
        docker("import", str(folder / "base.tar"), BASE)
        yield docker
    finally:
        process.terminate()
        process.wait()
        with suppress(StepFailed):
            run(["umount", f"{folder}/exec/netns/default"])


@contextmanager
def package_index(folder: Path) -> Iterator[str]:
    """The address of an index of the packages that `prepare` fetched."""
    handler = functools.partial(_Silent, directory=str(folder / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


class _Silent(http.server.SimpleHTTPRequestHandler):
    """Lists folders as a package index does, and keeps no log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


def _wait_until_it_answers(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not docker.is_there():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StepFailed(f"dockerd does not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
