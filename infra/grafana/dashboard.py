"""The Grafana dashboard of Nexus, from a list of what each panel asks; `make monitoring` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

RATE = "$__rate_interval"
HERE = 'namespace=~"$namespace"'
CALLS = f'{HERE}, handler=~"$handler"'
FAILED = f'{CALLS}, status="error"'

_COLUMNS = 24
_HEIGHT = 8
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    """One PromQL query, and how each series of its answer is called, e.g. `{{handler}}`."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """One graph: what it shows, in Grafana's name of its unit, and what to see in it."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    meaning: str
    stacked: bool = False


class Row(NamedTuple):
    """Panels side by side under one heading."""

    title: str
    panels: tuple[Panel, ...]


def _quantiles(metric: str, labels: str, by: str = "") -> tuple[Query, ...]:
    name = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(
            f"histogram_quantile({quantile}, sum by ({f'{by}, ' if by else ''}le)"
            f" (rate({metric}_bucket{{{labels}}}[{RATE}])))",
            f"{name}p{quantile[2:].ljust(2, '0')}",
        )
        for quantile in ("0.5", "0.95", "0.99")
    )


def _rate(metric: str, labels: str, by: str) -> Query:
    legend = " ".join(f"{{{{{one}}}}}" for one in by.split(", "))
    return Query(f"sum by ({by}) (rate({metric}{{{labels}}}[{RATE}]))", legend)


def _sum(metric: str, by: str) -> Query:
    return Query(f"sum by ({by}) ({metric}{{{HERE}}})", f"{{{{{by}}}}}")


ROWS: tuple[Row, ...] = (
    Row(
        "Calls",
        (
            Panel(
                "Calls",
                "reqps",
                (_rate("nexus_handler_executions_total", CALLS, "handler, status"),),
                "Calls a second of each handler, by how they ended.",
                stacked=True,
            ),
            Panel(
                "Share of failed calls",
                "percentunit",
                (
                    Query(
                        f"sum by (handler) (rate(nexus_handler_executions_total{{{FAILED}}}[{RATE}]))"
                        f" / sum by (handler) (rate(nexus_handler_executions_total{{{CALLS}}}[{RATE}]))",
                        "{{handler}}",
                    ),
                ),
                "Above 5 % for ten minutes the alert NexusErrors fires.",
            ),
            Panel(
                "Time of a call",
                "s",
                _quantiles("nexus_handler_execution_seconds", CALLS),
                "Waits for the network included.",
            ),
        ),
    ),
    Row(
        "What handlers do",
        (
            Panel(
                "Computing time of a call",
                "s",
                (
                    Query(
                        f"sum by (handler) (rate(nexus_handler_cpu_seconds_sum{{{CALLS}}}[{RATE}]))"
                        f" / sum by (handler) (rate(nexus_handler_cpu_seconds_count{{{CALLS}}}[{RATE}]))",
                        "{{handler}}",
                    ),
                ),
                "The mean. Far below the time of a call: the handler waits for others.",
            ),
            Panel(
                "Errors",
                "ops",
                (_rate("nexus_errors_total", HERE, "code"),),
                "By code, those outside of calls too, such as refused requests.",
                stacked=True,
            ),
            Panel(
                "Host calls",
                "ops",
                (_rate("nexus_host_calls_total", HERE, "function"),),
                "What handlers ask of the host.",
                stacked=True,
            ),
            Panel(
                "Refused for want of a capability",
                "ops",
                (_rate("nexus_capability_refusals_total", HERE, "kind"),),
                "Handlers that reach for what their manifest does not give.",
            ),
        ),
    ),
    Row(
        "Pool",
        (
            Panel(
                "Instances",
                "short",
                (_sum("nexus_pool_instances", "state"),),
                "All of them running: the pool is at its end.",
                stacked=True,
            ),
            Panel(
                "Calls that wait",
                "short",
                (_sum("nexus_pool_waiting", "pod"),),
                "For an instance, at the moment of the scrape.",
            ),
            Panel(
                "Wait for an instance",
                "s",
                _quantiles("nexus_pool_wait_seconds", HERE),
                "Above 0.5 s at p99 the alert NexusPoolWait fires.",
            ),
            Panel(
                "Instances made and thrown away",
                "ops",
                (
                    Query(f"sum(rate(nexus_instances_created_total{{{HERE}}}[{RATE}]))", "created"),
                    _rate("nexus_instances_retired_total", HERE, "reason"),
                    Query(
                        f"sum(rate(nexus_images_regrown_total{{{HERE}}}[{RATE}]))", "images captured again"
                    ),
                ),
                "Many that grew: the handler needs more memory than its image has.",
            ),
        ),
    ),
    Row(
        "Memory, caches, sleeping calls",
        (
            Panel(
                "Memory",
                "bytes",
                (
                    Query(f"sum by (pod) (nexus_pool_memory_bytes{{{HERE}}})", "instances {{pod}}"),
                    Query(f"max(nexus_peak_memory_bytes{{{HERE}}})", "largest call"),
                ),
                "Of the instances of a pod, and of the one call that used most.",
            ),
            Panel(
                "Bytes in caches",
                "bytes",
                (_sum("nexus_cache_bytes", "tier"),),
                "At NEXUS_MAX_CACHE_SIZE_BYTES the least recently used goes.",
            ),
            Panel(
                "Cache",
                "ops",
                (
                    _rate("nexus_cache_requests_total", HERE, "tier, result"),
                    Query(f"sum by (reason) (nexus_cache_degraded_total{{{HERE}}})", "given up: {{reason}}"),
                ),
                "Looks into each tier. One that was given up stays so until its pod starts anew.",
            ),
            Panel(
                "Looks that needed no compile",
                "percentunit",
                (Query(f"avg by (pod) (nexus_cache_hit_rate{{{HERE}}})", "{{pod}}"),),
                "Well below 1 for long: the cache is too small for the handlers.",
            ),
            Panel(
                "Sleeping calls",
                "short",
                (Query(f"max by (where) (nexus_suspensions{{{HERE}}})", "{{where}}"),),
                "More from hour to hour: the alert NexusSuspensionsAge fires.",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    for number, row in enumerate(ROWS):
        top = number * (_HEIGHT + 1)
        panels.append(
            {
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": top},
            }
        )
        width = _COLUMNS // len(row.panels)
        for place, panel in enumerate(row.panels):
            position = {"h": _HEIGHT, "w": width, "x": place * width, "y": top + 1}
            panels.append(_panel(panel, position))
    numbered = [panel | {"id": number} for number, panel in enumerate(panels, 1)]
    return {
        "uid": "nexus",
        "title": "Nexus",
        "tags": ["nexus"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": numbered,
    }


def _panel(panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    custom = {
        "fillOpacity": 20 if panel.stacked else 0,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none"},
    }
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": _targets(panel.queries),
    }


def _targets(queries: Sequence[Query]) -> list[dict[str, Any]]:
    return [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
        }
        for number, query in enumerate(queries)
    ]


def _variables() -> list[dict[str, Any]]:
    """The choices at the top: the data source, namespaces and handlers."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return [
        source,
        _variable("namespace", "label_values(nexus_pool_waiting, namespace)"),
        _variable("handler", f"label_values(nexus_handler_executions_total{{{HERE}}}, handler)"),
    ]


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
