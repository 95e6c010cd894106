#!/usr/bin/env python3
"""Builds the folder that becomes the Lambda function: our code, handlers, locked libraries, and the seed.

`sam build` and infra/lambda.Dockerfile both run it, by a Python in which Nexus itself is installed: that one
compiles the handlers. The libraries are those of the target's platform, whatever machine this is.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).resolve().parent
PYTHON_VERSION = "3.13"
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
"""Lambda's names of architectures, and the kernel's."""
# Amazon Linux 2023, which Lambda's Python 3.13 runs on, has glibc 2.34.
GLIBC = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
OURS = ("nexus_core", "functions")
LEFT_OUT = ("functions/cli", "functions/knative", "bin", "certifi/tests", "wrapt-stubs")
"""Other hosts' wrappers, and what libraries bring along that nothing imports."""
MAX_BYTES = 150_000_000
"""Lambda takes 250 MB, unzipped; every megabyte is paid for at a cold start."""


class RecipeFailed(Exception):
    """A step did not work; the message says which and why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Build the folder of the Lambda function.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="an empty folder, or none yet")
    parser.add_argument("--arch", choices=MACHINES, default="x86_64", help="architecture of the function")
    parser.add_argument("--handlers", type=Path, default=ROOT / "handlers", metavar="DIR")
    given = parser.parse_args(arguments)
    try:
        build(given.out.resolve(), given.arch, given.handlers)
    except RecipeFailed as failure:
        sys.exit(f"the Lambda package was not built: {failure}")


def build(out: Path, architecture: str, handlers: Path) -> None:
    """Fill `out`; raises `RecipeFailed`."""
    if out.exists() and any(out.iterdir()):
        raise RecipeFailed(f"{out} is not empty")
    install_libraries(out, architecture)
    for name in OURS:
        shutil.copytree(ROOT / name, out / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(handlers, out / "handlers")
    prune(out)
    build_seed(out, architecture)
    compile_modules(out)
    report_size(out)


def install_libraries(out: Path, architecture: str) -> None:
    """Put the locked libraries for the target's platform into `out`."""
    machine = MACHINES[architecture]
    run(
        "installing the libraries",
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"],
        ["--target", str(out), "--no-deps", "--no-compile", "--only-binary=:all:"],
        ["--implementation", "cp", "--python-version", PYTHON_VERSION],
        [part for glibc in GLIBC for part in ("--platform", f"{glibc}_{machine}")],
        ["--constraint", str(ROOT / "constraints.txt")],
        ["--requirement", str(RECIPE / "requirements.txt")],
    )


def prune(out: Path) -> None:
    """Take away what the function never reads. Licences and what `importlib.metadata` reads stay."""
    for name in LEFT_OUT:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("RECORD", "INSTALLER", "REQUESTED", "WHEEL"):
        for file in out.glob(f"*.dist-info/{name}"):
            file.unlink()


def build_seed(out: Path, architecture: str) -> None:
    """Compile the handlers that are in the package, and the engine when the target is like this machine."""
    # The builder's own settings are not the function's.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")}
    run(
        "compiling the handlers",
        [sys.executable, "-c", "from functions.cli.main import main; main()"],
        ["build", "--portable", "--arch", architecture],
        ["--handlers-dir", str(out / "handlers"), "--out", str(out / "seed")],
        environ=environ,
    )
    if MACHINES[architecture] != platform.machine():
        say(f"build on an {architecture} machine to spare every cold start the compile of the engine")


def compile_modules(out: Path) -> None:
    """Add bytecode: Lambda cannot write any, and would compile every module at each cold start."""
    python = matching_python()
    if python is None:
        say(f"no Python {PYTHON_VERSION} here: without bytecode in the package cold starts take longer")
        return
    # Zip files and copies change times, so a check by time would refuse it.
    mode = ["--invalidation-mode", "unchecked-hash", "-q", "-s", str(out), "-p", "/var/task"]
    run("compiling the modules", [python, "-m", "compileall"], mode, [str(out)])


def matching_python() -> str | None:
    """A Python of Lambda's version: this one, or one of the PATH that really starts."""
    ask = f"import sys; sys.exit(sys.version_info[:2] != ({PYTHON_VERSION.replace('.', ', ')}))"
    for candidate in filter(None, (sys.executable, shutil.which(f"python{PYTHON_VERSION}"))):
        asked = subprocess.run([candidate, "-c", ask], capture_output=True, check=False)  # noqa: S603 - as found
        if asked.returncode == 0:
            return candidate
    return None


def report_size(out: Path) -> None:
    """Print how large it is; raises `RecipeFailed` when that is too large."""
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    say(f"{out}: {size / 1e6:.1f} MB unzipped, at most {MAX_BYTES / 1e6:.0f}")
    if size >= MAX_BYTES:
        raise RecipeFailed(f"{size} bytes are too many; {MAX_BYTES} are the most")


def run(step: str, *command: Iterable[str], environ: dict[str, str] | None = None) -> None:
    """Run a program, its words given in groups; raises `RecipeFailed` unless it succeeds."""
    words = [word for group in command for word in group]
    done = subprocess.run(words, cwd=ROOT, env=environ, check=False)  # noqa: S603 - this recipe's own steps
    if done.returncode != 0:
        raise RecipeFailed(f"{step} ended with code {done.returncode}")


def say(text: str) -> None:
    """One line for whoever builds."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
