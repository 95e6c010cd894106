"""The rules of CloudWatch's embedded metric format that a document must keep, and what it says."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

MAX_EVENT_BYTES = 256 * 1024
Sums = Mapping[tuple[tuple[str, ...], str], float]
"""By the dimensions' values and the metric's name."""


def read_document(line: bytes) -> dict[str, Any]:
    """The document on a line; fails when it breaks a rule of the specification."""
    assert line.endswith(b"\n")
    assert len(line) <= MAX_EVENT_BYTES
    document: dict[str, Any] = json.loads(line)
    metadata = document["_aws"]
    assert isinstance(metadata["Timestamp"], int)
    assert abs(metadata["Timestamp"] / 1000 - time.time()) < 3600
    assert len(metadata["CloudWatchMetrics"]) >= 1
    for directive in metadata["CloudWatchMetrics"]:
        _check_directive(directive, document)
    return document


def _check_directive(directive: dict[str, Any], document: dict[str, Any]) -> None:
    assert 1 <= len(directive["Namespace"]) <= 1024
    assert len(directive["Dimensions"]) >= 1
    for dimensions in directive["Dimensions"]:
        assert len(dimensions) <= 30
        for name in dimensions:
            assert 1 <= len(name) <= 250
            assert isinstance(document[name], str)
            assert 1 <= len(document[name]) <= 1024
            assert document[name].isascii()
            assert document[name].strip()
    assert 1 <= len(directive["Metrics"]) <= 100
    for metric in directive["Metrics"]:
        assert set(metric) <= {"Name", "Unit", "StorageResolution"}
        assert 1 <= len(metric["Name"]) <= 255
        assert metric["Name"].isascii()
        assert metric["Unit"] in {unit.value for unit in MetricUnit}
        assert metric.get("StorageResolution", 60) in (1, 60)
        values = document[metric["Name"]]
        many = values if isinstance(values, list) else [values]
        assert 1 <= len(many) <= 100
        assert all(type(value) in (int, float) for value in many)


def totals(documents: bytes) -> tuple[Sums, Sums]:
    """The sum and the number of values of each metric under each of its sets of dimensions."""
    sums: dict[tuple[tuple[str, ...], str], float] = defaultdict(float)
    samples: dict[tuple[tuple[str, ...], str], float] = defaultdict(float)
    for line in documents.splitlines(keepends=True):
        document = read_document(line)
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for dimensions in directive["Dimensions"]:
                place = tuple(document[name] for name in dimensions)
                for metric in directive["Metrics"]:
                    values = document[metric["Name"]]
                    sums[place, metric["Name"]] += sum(values)
                    samples[place, metric["Name"]] += len(values)
    return sums, samples
