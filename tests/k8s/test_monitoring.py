"""Rules, dashboard and scrape: every query asks for what Nexus exports, and alerts fire when they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import promql_parser
import pytest

from infra.grafana.dashboard import RATE
from infra.monitoring import FOLDER, files
from nexus_core.caches.folder import Reason
from nexus_core.errors import ErrorCode
from nexus_core.metric_names import CACHE_HIT_RATE, METRICS
from tests.k8s.conftest import ROOT, Kubernetes

TARGET_LABELS = {"namespace", "pod", "job", "instance", "service"}
"""What Prometheus adds to every series of a target."""
RULES = "infra/prometheus/rules.yaml"


def exported() -> dict[str, set[str]]:
    """Every name of a series that `/metrics` has, and its labels."""
    series = {CACHE_HIT_RATE: set[str]()}
    for name, metric in METRICS.items():
        own = set(metric.labels)
        if metric.kind in ("summary", "histogram"):
            series |= {f"{name}_sum": own, f"{name}_count": own}
        else:
            series[name] = own
        if metric.kind == "histogram":
            series[f"{name}_bucket"] = own | {"le"}
    return series


EXPORTED = exported()
VALUES = {
    "code": {str(code) for code in ErrorCode},
    "status": {"success", "error", "suspended"},
    "state": {"free", "reserved", "running", "suspended"},
    "where": {"memory", "store"},
    "reason": set(get_args(Reason)),
}
"""What the values of a label can be, where that is known."""


def selectors(expression: Any) -> Iterator[promql_parser.VectorSelector]:
    """Every series selector of a parsed query."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for part in ("lhs", "rhs", "expr", "vector_selector", "param"):
        if (inner := getattr(expression, part, None)) is not None:
            yield from selectors(inner)
    if isinstance(expression, promql_parser.Call):
        for argument in expression.args:
            yield from selectors(argument)


def groupings(expression: Any) -> Iterator[tuple[list[str], Any]]:
    """The labels of each `by`, and what they group."""
    modifier = getattr(expression, "modifier", None)
    if isinstance(expression, promql_parser.AggregateExpr) and modifier is not None:
        yield modifier.labels, expression.expr
    for part in ("lhs", "rhs", "expr"):
        if (inner := getattr(expression, part, None)) is not None:
            yield from groupings(inner)
    if isinstance(expression, promql_parser.Call):
        for argument in expression.args:
            yield from groupings(argument)


def slips(query: str) -> Iterator[str]:
    """What a query asks for that Nexus does not export."""
    parsed = promql_parser.parse(query.replace(RATE, "5m"))
    asked = list(selectors(parsed))
    if not asked:
        yield "no metric"
    for selector in asked:
        if selector.name not in EXPORTED:
            yield f"metric {selector.name}"
        for matcher in selector.matchers.matchers:
            yield from label_slips(str(selector.name), matcher.name)
            known = VALUES.get(matcher.name)
            if known and matcher.op == promql_parser.MatchOp.Equal and matcher.value not in known:
                yield f"value {matcher.value}"
    for labels, inner in groupings(parsed):
        for selector in selectors(inner):
            for label in labels:
                yield from label_slips(str(selector.name), label)


def label_slips(name: str, label: str) -> Iterator[str]:
    """Tells of a label that the series of a name do not have."""
    if label not in EXPORTED.get(name, set()) | TARGET_LABELS:
        yield f"label {label} of {name}"


def dashboard() -> dict[str, Any]:
    """The dashboard as it is deployed."""
    found: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    return found


def dashboard_queries() -> list[str]:
    """Every query of every panel."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


@pytest.fixture(scope="session")
def rules(kubernetes: Kubernetes) -> list[dict[str, Any]]:
    """Every rule."""
    return [rule for group in kubernetes.yaml(RULES)["groups"] for rule in group["rules"]]


def test_what_is_deployed_is_what_the_sources_say() -> None:
    """The files that `make monitoring` writes are as it would write them now."""
    assert [path.name for path, text in files().items() if path.read_text() != text] == []


def test_the_operator_gets_the_same_rules(kubernetes: Kubernetes) -> None:
    """The PrometheusRule holds the groups of the rules file."""
    rule = kubernetes.one("monitoring", "PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["spec"] == {"groups": kubernetes.yaml(RULES)["groups"]}


def test_every_rule_asks_for_what_is_exported(rules: list[dict[str, Any]]) -> None:
    """Metrics, labels and label values of each rule's query exist."""
    assert {rule["alert"]: list(slips(rule["expr"])) for rule in rules if list(slips(rule["expr"]))} == {}


def test_every_panel_asks_for_what_is_exported() -> None:
    """Metrics, labels and label values of each of the dashboard's queries exist."""
    assert {query: list(slips(query)) for query in dashboard_queries() if list(slips(query))} == {}


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("rate(nexus_errors[5m])", "metric nexus_errors"),
        ("nexus_pool_wait_seconds", "metric nexus_pool_wait_seconds"),
        ('nexus_errors_total{reason="x"}', "label reason of nexus_errors_total"),
        ('nexus_errors_total{code="TIME_OUT"}', "value TIME_OUT"),
        ("sum by (handler) (rate(nexus_errors_total[5m]))", "label handler of nexus_errors_total"),
        ("1 - max(sum by (le) (nexus_pool_waiting))", "label le of nexus_pool_waiting"),
        ("vector(1)", "no metric"),
    ],
)
def test_a_slip_in_a_query_is_found(query: str, why: str) -> None:
    """A query for a metric, label or value that does not exist is told of."""
    assert why in list(slips(query))


def test_every_metric_is_on_the_dashboard() -> None:
    """No metric is exported that the dashboard does not show."""
    shown = {selector.name for query in dashboard_queries() for selector in selectors(parse(query))}
    missing = [name for name in METRICS if not any(one and one.startswith(name) for one in shown)]
    assert missing == []


def parse(query: str) -> Any:
    """A query of the dashboard, its variables filled in."""
    return promql_parser.parse(query.replace(RATE, "5m"))


def test_the_dashboard_lies_flat() -> None:
    """Panels lie beside and below one another, have numbers of their own, and use variables that exist."""
    found = dashboard()
    cells = [
        (x, y)
        for panel in found["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    variables = {one["name"] for one in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(found["panels"]))) - {RATE[1:]}
    assert used <= variables


def test_the_legends_name_labels_that_are_left() -> None:
    """A legend shows only labels that its query groups by."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            left = {label for labels, _ in groupings(parse(target["expr"])) for label in labels}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= left


def test_the_monitor_scrapes_the_service(kubernetes: Kubernetes) -> None:
    """The ServiceMonitor selects the labels and the port of the Service, with a token out of a Secret."""
    monitor = kubernetes.one("monitoring", "ServiceMonitor")
    service = kubernetes.one("base", "Service")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"].keys() == {"selector", "endpoints"}
    assert monitor["metadata"]["namespace"] == service["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert endpoint == {
        "port": "http",
        "path": "/metrics",
        "interval": "30s",
        "authorization": {"type": "Bearer", "credentials": {"name": "nexus-metrics", "key": "token"}},
    }


@pytest.mark.parametrize("folder", ["base", "knative"])
def test_annotations_lead_to_the_metrics(kubernetes: Kubernetes, folder: str) -> None:
    """A Prometheus that goes by annotations finds port and path."""
    kind = "Deployment" if folder == "base" else "Service"
    made = kubernetes.one(folder, kind)["spec"]["template"]
    (port,) = made["spec"]["containers"][0]["ports"]
    notes = {key: value for key, value in made["metadata"]["annotations"].items() if "prometheus" in key}
    assert notes == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(port["containerPort"]),
        "prometheus.io/path": "/metrics",
    }


def test_the_compose_file_mounts_what_is_there(kubernetes: Kubernetes) -> None:
    """Every file that infra/compose.yaml mounts exists, and every port is on the loopback address."""
    services = kubernetes.yaml("infra/compose.yaml")["services"]
    mounts = [mount for one in services.values() for mount in one.get("volumes", ()) if mount.startswith(".")]
    assert mounts
    assert [mount for mount in mounts if not (ROOT / "infra" / mount.partition(":")[0]).exists()] == []
    ports = [port for one in services.values() for port in one.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    (scrape,) = kubernetes.yaml("infra/prometheus/prometheus.yaml")["scrape_configs"]
    assert {target for one in scrape["static_configs"] for target in one["targets"]} == {"nexus:8080"}


def test_every_alert_is_tried(kubernetes: Kubernetes, rules: list[dict[str, Any]]) -> None:
    """Each alert has an example in which it fires, and one in which it does not."""
    wrong, healthy = kubernetes.yaml("infra/prometheus/rules-test.yaml")["tests"]
    names = sorted(rule["alert"] for rule in rules)
    assert sorted(one["alertname"] for one in wrong["alert_rule_test"] if one["exp_alerts"]) == names
    assert sorted(one["alertname"] for one in healthy["alert_rule_test"]) == names
    assert not any(one.get("exp_alerts") for one in healthy["alert_rule_test"])


def test_alerts_fire_when_they_should() -> None:
    """Prometheus itself finds the rules good, and fires each exactly where the examples say."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: Debian's package `prometheus` has it")
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", "rules-test.yaml"]):
        done = subprocess.run(
            [promtool, *command],
            cwd=Path(ROOT, "infra", "prometheus"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
