"""`python -m infra.images`: build the image, run it as a pod would, and say what was found.

It takes the engine that answers the docker command. Where none does, root gets one of our own for the time
being (infra/images/own_engine.py), with a Debian made on the spot in place of the published base image.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from infra.images import own_engine
from infra.images.checks import check
from infra.images.docker import Docker, StepFailed

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when the image keeps every promise, 1 when not."""
    parser = argparse.ArgumentParser(description="Build the image, run it as a pod would, and check it.")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    folder: Path | None = parser.parse_args(arguments).inside
    try:
        if folder is not None:
            with own_engine.engine(folder) as docker, own_engine.package_index(folder) as index:
                build_and_check(docker, ["--network=host"], BASE=own_engine.BASE, PIP_INDEX_URL=index)
            return 0
        docker = Docker(os.environ)
        if docker.is_there():
            build_and_check(docker, [])
            return 0
        with tempfile.TemporaryDirectory(prefix="nexus-images-", ignore_cleanup_errors=True) as made:
            say("no engine is running: starting one, with a base image made from Debian's packages")
            own_engine.prepare(Path(made))
            return own_engine.enter(["--inside", made])
    except StepFailed as failure:
        say(f"error: {failure}")
        return 1


def build_and_check(docker: Docker, options: Sequence[str], **build_arguments: str) -> None:
    """Build, tag with the version, and print each fact; raises `StepFailed`."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    image = f"nexus:{version}"
    given = [
        f"--build-arg={name}={value}" for name, value in (build_arguments | {"VERSION": version}).items()
    ]
    started = time.monotonic()
    docker("build", *options, *given, "--file", str(ROOT / "infra" / "Dockerfile"), "--tag", image, str(ROOT))
    say(f"{image}: built in {time.monotonic() - started:.0f} s")
    if base := build_arguments.get("BASE"):
        say(f"{base} under it: {docker.inspect(base)['Size'] / 1e6:.1f} MB")
    for fact in check(docker, image):
        say(f"ok  {fact}")


def say(text: str) -> None:
    """One line for whoever builds."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
