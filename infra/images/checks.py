"""Runs the image as a pod runs it, and looks at what the documents promise."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from infra.images.docker import Docker, StepFailed

MAX_BYTES = 250_000_000
USER = 65532
MEMORY_MIB = 256
PYTHON = "/opt/nexus/bin/python"
_READY_SECONDS = 60

# As k8s/base: nothing to write but /tmp, a cache volume as the kubelet makes it, no rights, bounded use.
# What a shell would be is an empty file, so nothing can need one. No network: what is asked is asked inside.
AS_A_POD = [
    "--read-only", "--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    f"--memory={MEMORY_MIB}m", f"--memory-swap={MEMORY_MIB}m", "--cpus=1", "--pids-limit=128",
    "--tmpfs=/tmp:mode=1777", f"--tmpfs=/tmp/nexus-cache:mode=2777,uid=0,gid={USER},size=128m",
    "--volume=/dev/null:/bin/sh:ro", "--volume=/dev/null:/bin/bash:ro",
    "--env=NEXUS_CACHE_DIR=/tmp/nexus-cache/disk",
]  # fmt: skip

# Runs in the container, because it has no network and need not have curl.
ASK = """
import http.client, json, sys
method, path, body = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
connection.request(method, path, body or None)
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""
LOOK = """
import json, os, pathlib
def of(*paths):
    return next(pathlib.Path(p).read_text().strip() for p in paths if pathlib.Path(p).exists())
def can_write(folder):
    try:
        pathlib.Path(folder, "probe").touch()
    except OSError as error:
        return error.strerror
    return "yes"
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "limit": of("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    "used": of("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    "writes": {folder: can_write(folder) for folder in ("/", "/srv/nexus", "/opt/nexus", "/tmp")},
}))
"""


def check(docker: Docker, image: str) -> Iterator[str]:
    """Each fact that was found, in words; raises `StepFailed` for the first that is not as it must be."""
    yield from _of_the_image(docker.inspect(image))
    with _container(docker, image) as name:
        refused = int(docker("wait", name))
    _must(refused == 2, f"without a token or NEXUS_AUTH=off it must not start, and ended with code {refused}")
    yield "refuses to start open to everyone"
    with _container(docker, image, "--env=NEXUS_AUTH=off") as name:
        started = time.monotonic()
        _wait_until_healthy(docker, name)
        yield f"healthy by its own health check after {time.monotonic() - started:.1f} s"
        yield from _of_the_process(docker, name)
        yield from _of_its_answers(docker, name)
        yield from _of_its_end(docker, name)
    yield from _of_the_memory_limit(docker, image)


def _of_the_image(found: dict[str, Any]) -> Iterator[str]:
    config = found["Config"]
    _must(found["Size"] < MAX_BYTES, f"{found['Size']} bytes are too many: {MAX_BYTES} are allowed")
    yield f"{found['Size'] / 1e6:.1f} MB unpacked, at most {MAX_BYTES / 1e6:.0f}"
    _must(config["User"] == f"{USER}:{USER}", f"its user is {config['User']!r}")
    _must(config["Healthcheck"]["Test"][0] == "CMD", "its health check needs a shell")
    _must(config["Entrypoint"][0] == PYTHON, f"its entrypoint is {config['Entrypoint']}")
    labels = {name.rpartition(".")[2] for name in config["Labels"] or {}}
    _must({"title", "version", "revision", "licenses"} <= labels, f"its labels are {sorted(labels)}")
    yield "has user, health check, entry point and labels, all without a shell"


def _of_the_process(docker: Docker, name: str) -> Iterator[str]:
    found = json.loads(docker("exec", name, PYTHON, "-c", LOOK))
    _must(found["user"] == [USER, USER], f"runs as {found['user']}")
    yield f"runs as {USER}, not root"
    writes = found["writes"]
    _must(writes.pop("/tmp") == "yes", "cannot write /tmp")  # noqa: S108 - of the container
    _must("yes" not in writes.values(), f"can write {writes}")
    yield "writes /tmp and nothing else"
    _must(int(found["limit"]) == MEMORY_MIB * 2**20, f"its memory limit reads {found['limit']}")
    yield f"uses {int(found['used']) / 2**20:.0f} of {MEMORY_MIB} MiB when ready"


def _of_its_answers(docker: Docker, name: str) -> Iterator[str]:
    status, text = _ask(docker, name, "POST", "/invoke/hello", '{"who": "bob"}')
    _must((status, "hello bob" in text) == (200, True), f"POST /invoke/hello: {status} {text[:500]}")
    yield "answers POST /invoke/hello"
    _, metrics = _ask(docker, name, "GET", "/metrics", "")
    looks = [line for line in metrics.splitlines() if line.startswith("nexus_cache_requests_total{")]
    _must(any('"seed"' in line and '"hit"' in line for line in looks), f"the seed was not used: {looks}")
    _must(not any('"compile"' in line for line in looks), f"something was compiled: {looks}")
    _must("nexus_cache_degraded_total{" not in metrics, "a cache was given up")
    yield "compiles nothing: the seed has it; and every cache can be used"


def _of_its_end(docker: Docker, name: str) -> Iterator[str]:
    started = time.monotonic()
    docker("stop", "--time=30", name)
    seconds = time.monotonic() - started
    state = docker.inspect(name)["State"]
    _must(state["ExitCode"] == 0, f"ended with code {state['ExitCode']} when it was told to stop")
    yield f"ends with code 0, {seconds:.1f} s after SIGTERM"


def _of_the_memory_limit(docker: Docker, image: str) -> Iterator[str]:
    with _container(docker, image, program=["-c", f"b'x' * {2 * MEMORY_MIB * 2**20}"]) as name:
        docker("wait", name)
        state = docker.inspect(name)["State"]
        _must(state["OOMKilled"], f"took more than {MEMORY_MIB} MiB and ended with code {state['ExitCode']}")
    yield f"is killed for more than {MEMORY_MIB} MiB"


@contextmanager
def _container(docker: Docker, image: str, *options: str, program: list[str] | None = None) -> Iterator[str]:
    """A running container, removed at the end; `program` is what Python runs instead of the server."""
    instead = [f"--entrypoint={PYTHON}"] if program else []
    name = docker("run", "--detach", *AS_A_POD, *options, *instead, image, *(program or []))
    try:
        yield name
    finally:
        with suppress(StepFailed):
            docker("rm", "--force", name)


def _wait_until_healthy(docker: Docker, name: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while (state := docker.inspect(name)["State"])["Health"]["Status"] != "healthy":
        if not state["Running"] or time.monotonic() > deadline:
            raise StepFailed(f"the container is not healthy: {docker('logs', name)[-2000:]}")
        time.sleep(0.2)


def _ask(docker: Docker, name: str, method: str, path: str, body: str) -> tuple[int, str]:
    status, text = json.loads(docker("exec", name, PYTHON, "-c", ASK, method, path, body))
    return int(status), str(text)


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StepFailed(otherwise)
