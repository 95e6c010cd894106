"""Writes what k8s/monitoring is given by others: `python -m infra.monitoring`.

The dashboard comes from infra/grafana/dashboard.py, the rules from infra/prometheus/rules.yaml. Kustomize
reads no file outside of its own folder, so both are kept there as well.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path

from infra.grafana.dashboard import dashboard

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "infra" / "prometheus" / "rules.yaml"
FOLDER = ROOT / "k8s" / "monitoring"
_RULE_HEAD = """\
# Written by `make monitoring` from infra/prometheus/rules.yaml: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: nexus
  labels:
    app.kubernetes.io/name: nexus
spec:
"""


def files() -> Mapping[Path, str]:
    """Every file that is written, and its text."""
    rules = RULES.read_text()
    groups = rules[rules.index("groups:") :]
    return {
        FOLDER / "dashboard.json": json.dumps(dashboard(), indent=2) + "\n",
        FOLDER / "prometheus-rule.yaml": _RULE_HEAD + textwrap.indent(groups, "  "),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
