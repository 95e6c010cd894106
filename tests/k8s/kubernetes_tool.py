"""Builds and checks manifests with the tools of `.venv-k8s`, for tests that run elsewhere.

One JSON request per line on standard input, one JSON answer per line on standard output.
"""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

KUBERNETES = "1.37"


@cache
def own_kinds() -> dict[tuple[str, str], Any]:
    """Kinds that Kubernetes itself does not know, and Knative's models, which take a second to import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cloudcoil.models.knative_eventing.eventing.v1 as eventing
        import cloudcoil.models.knative_eventing.sources.v1 as sources
        import cloudcoil.models.knative_serving.serving.v1 as serving
    return {
        ("serving.knative.dev/v1", "Service"): serving.Service,
        ("eventing.knative.dev/v1", "Broker"): eventing.Broker,
        ("eventing.knative.dev/v1", "Trigger"): eventing.Trigger,
        ("sources.knative.dev/v1", "SinkBinding"): sources.SinkBinding,
    }


def build(folder: str) -> list[Any]:
    """The objects that `kubectl apply -k` would apply."""
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return list(yaml.safe_load_all(done.stdout))


def faults(found: dict[str, Any]) -> list[str]:
    """What is wrong with one object, by the schema of its kind; unknown keys are wrong."""
    is_own = "knative.dev/" in found["apiVersion"]
    try:
        if not is_own:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)
            return []
        read = own_kinds()[found["apiVersion"], found["kind"]].model_validate(found)
    except Exception as error:  # noqa: BLE001 - each of the libraries has its own, and all of them are faults
        return [str(error)]
    return list(unread(found, read.model_dump(mode="json", by_alias=True, exclude_unset=True), ""))


def unread(found: Any, read: Any, path: str) -> Iterator[str]:
    """The keys of `found` that a model did not take: it ignores what it does not know."""
    if isinstance(found, dict) and isinstance(read, dict):
        for key, value in found.items():
            if key not in read:
                yield f"{path}/{key} is unknown"
            else:
                yield from unread(value, read[key], f"{path}/{key}")
    elif isinstance(found, list) and isinstance(read, list):
        for number, (one, other) in enumerate(zip(found, read, strict=True)):
            yield from unread(one, other, f"{path}/{number}")


def answer(request: dict[str, Any]) -> Any:
    """The answer to one request: `build` a folder, tell the `faults` of an object, or read a `yaml` file."""
    if "build" in request:
        return build(request["build"])
    if "faults" in request:
        return faults(request["faults"])
    return yaml.safe_load(Path(request["yaml"]).read_text())


for line in sys.stdin:
    sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
    sys.stdout.flush()
