"""What docs/kubernetes.md tells to type, and the names it tells them with."""

import re

from tests.k8s.conftest import ROOT, Kubernetes
from tests.k8s.test_manifests import nexus_of

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()


def test_what_is_applied_exists(kubernetes: Kubernetes) -> None:
    """Every file and folder that a command applies or deletes is there, and each folder can be built."""
    folders = re.findall(r"kubectl (?:apply|delete) -k k8s/(\S+)", PAGE)
    assert set(folders) == {"overlays/prod", "knative", "knative/eventing", "monitoring"}
    assert all(kubernetes.built(folder) for folder in folders)
    assert [path for path in re.findall(r" -f ([\w./-]+)", PAGE) if not (ROOT / path).exists()] == []


def test_the_secrets_are_those_that_are_asked_for(kubernetes: Kubernetes) -> None:
    """The Secrets that the page makes have the names and keys that pods and monitor refer to."""
    made = set(re.findall(r"create secret generic (\S+) --from-file=([\w-]+)=", PAGE))
    asked = {
        (one["valueFrom"]["secretKeyRef"]["name"], one["valueFrom"]["secretKeyRef"]["key"])
        for one in nexus_of(kubernetes, "overlays/prod").container["env"]
        if not one["valueFrom"]["secretKeyRef"].get("optional")
    }
    (endpoint,) = kubernetes.one("monitoring", "ServiceMonitor")["spec"]["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert made == asked | {(credentials["name"], credentials["key"])}


def test_the_redis_overlay_is_told_of_truly(kubernetes: Kubernetes) -> None:
    """The page says that nothing uses the Redis exactly as long as the overlay's Nexus does not."""
    told = "nothing uses it today" in PAGE
    data = kubernetes.one("overlays/redis", "ConfigMap")["data"]
    assert told == data.get("NEXUS_STORE_URL", "redis").startswith("sqlite:")
