"""What `kubectl apply -k` applies: valid by the schemas, closed down, with the numbers that were decided."""

import copy
import ipaddress
import tomllib
from typing import Any

import pytest

from nexus_core.config import RuntimeConfig
from nexus_core.extensions.egress import _REFUSED_V4, _REFUSED_V6
from tests.k8s.conftest import ROOT, Kubernetes, Object, Pods

DEPLOYED = ("base", "overlays/dev", "overlays/prod", "overlays/redis")
"""Folders that run Nexus as a Deployment."""
SERVED = ("knative", "knative/eventing")
"""Folders that run it as a Knative Service."""
FOLDERS = (*DEPLOYED, *SERVED, "monitoring")
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
WORKLOADS = ("Deployment", "StatefulSet")


def is_knative_service(found: Object) -> bool:
    """Whether an object is Knative's Service, not Kubernetes' own."""
    return (found["kind"], found["apiVersion"]) == ("Service", "serving.knative.dev/v1")


def pods_of(objects: list[Object]) -> list[Pods]:
    """All pods that a folder's objects make."""
    return [Pods(one) for one in objects if one["kind"] in WORKLOADS or is_knative_service(one)]


def nexus_of(kubernetes: Kubernetes, folder: str) -> Pods:
    """The pods of Nexus itself."""
    (found,) = (
        pods for pods in pods_of(kubernetes.built(folder)) if pods.owner["metadata"]["name"] == "nexus"
    )
    return found


def amount(text: str) -> int:
    """Bytes of a quantity like `128Mi`."""
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_every_object_is_valid(kubernetes: Kubernetes, folder: str) -> None:
    """No object has a key or a value that the schema of its kind does not know."""
    objects = kubernetes.built(folder)
    assert objects
    assert {
        one["metadata"]["name"]: kubernetes.faults(one) for one in objects if kubernetes.faults(one)
    } == {}


@pytest.mark.parametrize(
    ("folder", "kind", "path", "value"),
    [
        ("base", "Deployment", ("spec", "template", "spec", "contaners"), []),
        ("base", "Deployment", ("spec", "replicas"), "two"),
        ("base", "HorizontalPodAutoscaler", ("spec", "maxReplica"), 10),
        ("base", "NetworkPolicy", ("spec", "egres"), []),
        ("knative", "Service", ("spec", "template", "spec", "containerConcurency"), 10),
        ("knative", "Service", ("spec", "template", "spec", "timeoutSeconds"), "soon"),
        ("knative/eventing", "Trigger", ("spec", "delivery", "retries"), 5),
        ("knative/eventing", "SinkBinding", ("spec", "ceOverride"), {}),
    ],
)
def test_a_slip_is_found(
    kubernetes: Kubernetes, folder: str, kind: str, path: tuple[str, ...], value: object
) -> None:
    """A misspelt key and a value of the wrong type are faults, in kinds of Kubernetes and of others."""
    found = copy.deepcopy(next(one for one in kubernetes.built(folder) if one["kind"] == kind))
    inner: Any = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert kubernetes.faults(found)


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_pods_keep_to_the_restricted_standard(kubernetes: Kubernetes, folder: str) -> None:
    """Every pod passes the restricted Pod Security Standard of its namespace, and has a read-only root."""
    labels = next(one for one in kubernetes.built(folder) if one["kind"] == "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pods in pods_of(kubernetes.built(folder)):
        assert pods.setting_of("runAsNonRoot") is True
        assert pods.setting_of("runAsUser") > 0
        assert pods.setting_of("seccompProfile") == {"type": "RuntimeDefault"}
        assert pods.setting_of("allowPrivilegeEscalation") is False
        assert pods.setting_of("capabilities") == {"drop": ["ALL"]}
        assert pods.setting_of("readOnlyRootFilesystem") is True
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pods.spec.keys()
        assert all({"emptyDir", "configMap"} & volume.keys() for volume in pods.spec.get("volumes", ()))


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_pods_cannot_speak_to_kubernetes(kubernetes: Kubernetes, folder: str) -> None:
    """No pod gets a token of its service account, and none is told of other Services by variables."""
    assert kubernetes.one(folder, "ServiceAccount")["automountServiceAccountToken"] is False
    assert nexus_of(kubernetes, folder).spec["serviceAccountName"] == "nexus"
    for pods in pods_of(kubernetes.built(folder)):
        assert pods.spec["enableServiceLinks"] is False
        # Knative does not take it in a pod; there the service account's word counts alone.
        assert is_knative_service(pods.owner) or pods.spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_nexus_runs_as_the_user_of_its_image(kubernetes: Kubernetes, folder: str) -> None:
    """The uid of the pods is the one the image is made for."""
    user = f"USER {nexus_of(kubernetes, folder).setting_of('runAsUser')}:65532\n"
    assert user in (ROOT / "infra" / "Dockerfile").read_text()


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_secret_is_in_git(kubernetes: Kubernetes, folder: str) -> None:
    """Secrets are referred to, never made, and no variable that holds one has a value."""
    objects = kubernetes.built(folder)
    assert [one for one in objects if one["kind"] == "Secret"] == []
    names = [name for one in objects if one["kind"] == "ConfigMap" for name in one["data"]]
    names += [
        one["name"] for pods in pods_of(objects) for one in pods.container.get("env", ()) if "value" in one
    ]
    assert [name for name in names if "SECRET" in name or "KEY" in name or "PASSWORD" in name] == []


def test_one_version_everywhere(kubernetes: Kubernetes) -> None:
    """Manifests, image and compose file name the image with the version that pyproject.toml builds."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {nexus_of(kubernetes, folder).container["image"] for folder in (*DEPLOYED, *SERVED)}
    assert images == {f"nexus:{version}", f"registry.example.com/nexus:{version}"}
    assert kubernetes.yaml("infra/compose.yaml")["services"]["nexus"]["image"] == f"nexus:{version}"
    assert f"ARG VERSION={version}\n" in (ROOT / "infra" / "Dockerfile").read_text()


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_resources_and_volumes(kubernetes: Kubernetes, folder: str) -> None:
    """Requests, limits and the volumes of `/tmp` are the ones that were decided."""
    pods = nexus_of(kubernetes, folder)
    assert pods.container["resources"] == {
        "requests": {"cpu": "100m", "memory": "256Mi"},
        "limits": {"cpu": "1000m", "memory": "1Gi"},
    }
    mounted = {one["mountPath"]: one["name"] for one in pods.container["volumeMounts"]}
    volumes = {one["name"]: one for one in pods.spec["volumes"]}
    cache = volumes[mounted["/tmp/nexus-cache"]]
    assert cache["emptyDir"] == {"medium": "Memory", "sizeLimit": "128Mi"}
    assert "medium" not in volumes[mounted["/tmp"]]["emptyDir"]


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_probes_ask_what_they_mean(kubernetes: Kubernetes, folder: str) -> None:
    """Ready and started mean warm; only a dead process is killed; all ask on the port Nexus listens on."""
    container = nexus_of(kubernetes, folder).container
    (port,) = container["ports"]
    assert port["containerPort"] == RuntimeConfig().port
    asked = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert asked["readinessProbe"]["path"] == "/health/ready"
    assert asked["livenessProbe"]["path"] == "/health/live"
    if folder in DEPLOYED:
        assert asked["startupProbe"]["path"] == "/health/ready"
        assert {one["port"] for one in asked.values()} == {port["name"]}


@pytest.mark.parametrize("folder", ["base", "overlays/redis", "overlays/prod"])
def test_it_scales_and_survives_a_node(kubernetes: Kubernetes, folder: str) -> None:
    """At least two pods, at most ten, by processor and memory; spread; one at a time may be taken away."""
    least = 3 if folder == "overlays/prod" else 2
    deployment = kubernetes.one(folder, "Deployment")["spec"]
    scaler = kubernetes.one(folder, "HorizontalPodAutoscaler")["spec"]
    assert deployment["replicas"] == scaler["minReplicas"] == least
    assert scaler["maxReplicas"] == 10
    targets = {one["resource"]["name"]: one["resource"]["target"] for one in scaler["metrics"]}
    assert targets == {
        "cpu": {"type": "Utilization", "averageUtilization": 70},
        "memory": {"type": "Utilization", "averageUtilization": 80},
    }
    assert kubernetes.one(folder, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    pod = deployment["template"]["spec"]
    (spread,) = pod["topologySpreadConstraints"]
    (apart,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert (spread["topologyKey"], apart["podAffinityTerm"]["topologyKey"]) == (
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    )
    assert spread["whenUnsatisfiable"] == ("DoNotSchedule" if folder == "overlays/prod" else "ScheduleAnyway")


def test_selectors_find_the_pods(kubernetes: Kubernetes) -> None:
    """Service, budget, policies and spreading rules select the labels that the pods have."""
    for folder in (*DEPLOYED, *SERVED):
        made = nexus_of(kubernetes, folder).owner["spec"]["template"]["metadata"]["labels"]
        selectors = [
            one["spec"].get("podSelector") or one["spec"].get("selector")
            for one in kubernetes.built(folder)
            if one["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "Deployment", "Service")
            and one["metadata"]["name"].startswith("nexus")
            and "redis" not in one["metadata"]["name"]
            and not is_knative_service(one)
        ]
        assert selectors
        assert all(selector.get("matchLabels", selector) == made for selector in selectors)


@pytest.mark.parametrize("folder", [*DEPLOYED, *SERVED])
def test_the_network_refuses_what_the_guard_refuses(kubernetes: Kubernetes, folder: str) -> None:
    """Pods reach HTTPS at public addresses only: every range that `$ext.http` refuses is excluded."""
    names, outside = kubernetes.one(folder, "NetworkPolicy", "nexus-egress")["spec"]["egress"]
    assert {one["port"] for one in names["ports"]} == {53}
    assert outside["ports"] == [{"protocol": "TCP", "port": 443}]
    blocks = {block["ipBlock"]["cidr"]: block["ipBlock"]["except"] for block in outside["to"]}
    excluded = {ipaddress.ip_network(text) for texts in blocks.values() for text in texts}
    assert excluded == {*_REFUSED_V4, *_REFUSED_V6}
    assert set(blocks) == {"0.0.0.0/0", "2000::/3"}


def test_who_may_come_in(kubernetes: Kubernetes) -> None:
    """Callers reach the port of Nexus and no other; without tokens nobody comes in past a gateway."""
    open_ports = {
        folder: [
            port["port"]
            for rule in kubernetes.one(folder, "NetworkPolicy", "nexus-ingress")["spec"]["ingress"]
            for port in rule["ports"]
        ]
        for folder in (*DEPLOYED, *SERVED)
    }
    queue_proxy = [8012, 8013, 8112, 9090, 9091]
    assert open_ports == {
        "base": ["http"],
        "overlays/dev": [],
        "overlays/prod": ["http"],
        "overlays/redis": ["http"],
        "knative": [*queue_proxy, 8080],
        "knative/eventing": queue_proxy,
    }
    without_tokens = [
        folder for folder in open_ports if kubernetes.one(folder, "ConfigMap")["data"]["NEXUS_AUTH"] == "off"
    ]
    assert without_tokens == ["overlays/dev", "knative/eventing"]
