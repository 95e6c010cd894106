"""What Knative's webhooks refuse and no schema says, and how events flow through the example."""

import copy
from collections.abc import Callable, Iterator

import pytest

from functions.knative.platform import platform_settings
from nexus_core.handlers import HandlerRegistry
from nexus_core.limits import ResourceLimits
from tests.k8s.conftest import ROOT, Kubernetes, Object, Pods
from tests.k8s.test_manifests import SERVED, nexus_of
from tests.k8s.test_settings import config_of

RESERVED_VARIABLES = {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
RESERVED_PORTS = {8008, 8012, 8013, 8022, 8112, 9090, 9091}
POD_FIELDS = {
    "containers", "containerConcurrency", "enableServiceLinks", "idleTimeoutSeconds", "imagePullSecrets",
    "responseStartTimeoutSeconds", "serviceAccountName", "timeoutSeconds", "volumes",
}  # fmt: skip
"""What Knative takes in a pod unless a cluster turns on more."""


def refusals(pods: Pods) -> Iterator[str]:
    """Why Knative's webhook would refuse a Service."""
    yield from (f"pod field {name}" for name in pods.spec.keys() - POD_FIELDS)
    container = pods.container
    if container.get("name") == "queue-proxy":
        yield "container name queue-proxy"
    if "lifecycle" in container:
        yield "lifecycle"
    yield from (f"variable {one['name']}" for one in container["env"] if one["name"] in RESERVED_VARIABLES)
    yield from port_refusals(container)
    yield from probe_refusals(container)
    mounted = {one["name"] for one in container["volumeMounts"]}
    yield from (f"unmounted {one['name']}" for one in pods.spec["volumes"] if one["name"] not in mounted)
    if not 0 <= pods.spec["containerConcurrency"] <= 1000:
        yield "containerConcurrency"
    if not 0 < pods.spec["timeoutSeconds"] <= 600:
        yield "timeoutSeconds"


def port_refusals(container: Object) -> Iterator[str]:
    """What is wrong with a container's port."""
    ports = container["ports"]
    if len(ports) != 1:
        yield f"{len(ports)} ports"
    for port in ports:
        if port.get("name", "") not in ("", "http1", "h2c"):
            yield f"port name {port['name']}"
        if port["containerPort"] in RESERVED_PORTS:
            yield f"port {port['containerPort']}"
        yield from (f"port field {name}" for name in port.keys() & {"hostPort", "hostIP"})


def probe_refusals(container: Object) -> Iterator[str]:
    """What is wrong with a container's probes."""
    own_port = container["ports"][0]["containerPort"]
    for name in container.keys() & {"startupProbe", "readinessProbe", "livenessProbe"}:
        probe = container[name]
        if len(probe.keys() & {"httpGet", "tcpSocket", "exec", "grpc"}) != 1:
            yield f"{name} asks in no single way"
        if probe.get("httpGet", {}).get("port", own_port) != own_port:
            yield f"{name} on another port"


@pytest.mark.parametrize("folder", SERVED)
def test_knative_takes_the_service(kubernetes: Kubernetes, folder: str) -> None:
    """No rule of Knative's webhook is broken."""
    assert list(refusals(nexus_of(kubernetes, folder))) == []


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda pod: pod.update(affinity={}), "pod field affinity"),
        (lambda pod: pod["containers"][0].update(name="queue-proxy"), "container name queue-proxy"),
        (lambda pod: pod["containers"][0]["ports"].append({"containerPort": 8081}), "2 ports"),
        (lambda pod: pod["containers"][0]["ports"][0].update(name="http"), "port name http"),
        (lambda pod: pod["containers"][0]["ports"][0].update(containerPort=8012), "port 8012"),
        (lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80), "port field hostPort"),
        (lambda pod: pod["containers"][0]["env"].append({"name": "PORT"}), "variable PORT"),
        (lambda pod: pod["containers"][0].update(lifecycle={}), "lifecycle"),
        (
            lambda pod: pod["containers"][0]["livenessProbe"]["httpGet"].update(port=1),
            "livenessProbe on another port",
        ),
        (
            lambda pod: pod["containers"][0]["livenessProbe"].update(tcpSocket={}),
            "livenessProbe asks in no single way",
        ),
        (lambda pod: pod["volumes"].append({"name": "x"}), "unmounted x"),
        (lambda pod: pod.update(containerConcurrency=1001), "containerConcurrency"),
        (lambda pod: pod.update(timeoutSeconds=601), "timeoutSeconds"),
    ],
)
def test_each_rule_finds_its_breach(
    kubernetes: Kubernetes, spoil: Callable[[Object], object], why: str
) -> None:
    """Each of the rules above tells of a Service that breaks it."""
    service = copy.deepcopy(kubernetes.one("knative", "Service"))
    spoil(service["spec"]["template"]["spec"])
    assert why in list(refusals(Pods(service)))


@pytest.mark.parametrize("folder", SERVED)
def test_knative_waits_and_the_pool_does_not(kubernetes: Kubernetes, folder: str) -> None:
    """A pod is given as many requests at a time as its pools run, and the number of pods is bounded."""
    config = config_of(kubernetes, folder)
    pods = nexus_of(kubernetes, folder)
    assert pods.spec["containerConcurrency"] == config.max_instances * config.workers
    notes = pods.owner["spec"]["template"]["metadata"]["annotations"]
    assert notes["autoscaling.knative.dev/min-scale"] == "0"
    assert notes["autoscaling.knative.dev/max-scale"] == "10"
    assert notes["autoscaling.knative.dev/metric"] == "concurrency"


def test_events_reach_a_handler_and_failures_the_dead_letters(kubernetes: Kubernetes) -> None:
    """Trigger and dead letter sink point at the Service, by names of objects and of triggers that exist."""
    service = kubernetes.one("knative/eventing", "Service")
    here = {"apiVersion": service["apiVersion"], "kind": "Service", "name": service["metadata"]["name"]}
    registry = HandlerRegistry(ROOT / "k8s/knative/eventing/handlers", ResourceLimits())
    patterns = {one.pattern for name in registry.names() for one in registry.get(name).manifest.triggers}
    (trigger,) = (one for one in kubernetes.built("knative/eventing") if one["kind"] == "Trigger")
    broker = kubernetes.one("knative/eventing", "Broker")
    assert trigger["spec"]["broker"] == broker["metadata"]["name"]
    assert trigger["spec"]["subscriber"] == {"ref": here}
    assert trigger["spec"]["filter"]["attributes"]["type"] in patterns
    for delivery in (trigger["spec"]["delivery"], broker["spec"]["delivery"]):
        assert delivery["retry"] > 0
        assert delivery["deadLetterSink"]["ref"] == here
        assert f"POST {delivery['deadLetterSink']['uri']}" in patterns


def test_handlers_of_config_maps_lie_where_nexus_looks(kubernetes: Kubernetes) -> None:
    """Each handler's ConfigMap is mounted as a folder of the handlers folder, under the handler's name."""
    config = config_of(kubernetes, "knative/eventing")
    pods = nexus_of(kubernetes, "knative/eventing")
    volumes = {one["name"]: one["configMap"]["name"] for one in pods.spec["volumes"] if "configMap" in one}
    mounted = {
        one["mountPath"]: volumes[one["name"]]
        for one in pods.container["volumeMounts"]
        if one["name"] in volumes
    }
    expected = {
        f"{config.handlers_dir}/{folder.name}": kubernetes.one(
            "knative/eventing", "ConfigMap", f"nexus-{folder.name}"
        )["metadata"]["name"]
        for folder in (ROOT / "k8s/knative/eventing/handlers").iterdir()
    }
    assert mounted == expected


def test_emitted_events_go_to_the_broker(kubernetes: Kubernetes) -> None:
    """The binding gives the Service's pods the broker as sink, which no setting of theirs overrules."""
    binding = kubernetes.one("knative/eventing", "SinkBinding")["spec"]
    assert (binding["subject"]["kind"], binding["subject"]["name"]) == ("Service", "nexus")
    assert binding["sink"]["ref"]["kind"] == "Broker"
    data = kubernetes.one("knative/eventing", "ConfigMap")["data"]
    sink = "http://broker-ingress.knative-eventing.svc.cluster.local/nexus-events/nexus"
    assert platform_settings(data | {"K_SINK": sink})["NEXUS_EVENT_SINK"] == sink
