"""The manifests as `kubectl apply -k` would apply them, and what checks them."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-k8s" / "bin" / "python"
SECONDS = 60

Object = dict[str, Any]
"""One object of Kubernetes, as JSON shows it."""


class Kubernetes:
    """Questions to the tools in `.venv-k8s`, which run as one process for all tests."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._built: dict[str, list[Object]] = {}

    def built(self, folder: str) -> list[Object]:
        """The objects of a folder of `k8s/`."""
        if folder not in self._built:
            self._built[folder] = self._ask({"build": str(ROOT / "k8s" / folder)})
        return self._built[folder]

    def one(self, folder: str, kind: str, name: str = "nexus") -> Object:
        """The object of a folder with this kind and name; a ConfigMap's name may end in a digest."""
        (found,) = (
            one
            for one in self.built(folder)
            if one["kind"] == kind
            and (one["metadata"]["name"] == name or (kind == "ConfigMap" and _is_digest_of(one, name)))
        )
        return found

    def faults(self, found: Object) -> list[str]:
        """What Kubernetes, Knative or the Prometheus operator would not take of an object."""
        told: list[str] = self._ask({"faults": found})
        return told

    def yaml(self, path: str) -> Any:
        """A YAML file of this repository."""
        return self._ask({"yaml": str(ROOT / path)})

    def _ask(self, request: Mapping[str, object]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the tools stopped: their standard error says why"
        return json.loads(line)


def _is_digest_of(found: Object, name: str) -> bool:
    start, _, digest = found["metadata"]["name"].rpartition("-")
    return start == name and len(digest) == 10


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Kubernetes]:
    """The tools."""
    if not PYTHON.exists():
        pytest.skip("kubectl and the schemas are not installed: `make k8s-tools` brings them")
    program = Path(__file__).with_name("kubernetes_tool.py")
    with subprocess.Popen(
        [PYTHON, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Kubernetes(process)
        assert process.stdin
        process.stdin.close()
        assert process.wait(SECONDS) == 0


class Pods:
    """The pods that an object makes: the object, their specification and their only container."""

    def __init__(self, owner: Object) -> None:
        self.owner = owner

    @cached_property
    def spec(self) -> Object:
        """The specification of the pods."""
        found: Object = self.owner["spec"]["template"]["spec"]
        return found

    @cached_property
    def container(self) -> Object:
        """Their container."""
        (found,) = self.spec["containers"]
        return dict(found)

    def setting_of(self, field: str) -> Any:
        """A field of the security context: of the container, else of the pod."""
        own = self.container.get("securityContext", {})
        return own.get(field, self.spec.get("securityContext", {}).get(field))
