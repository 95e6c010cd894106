"""What the function with the sample handlers answers to each of the sample events."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tests.aws_lambda.emulated import ROOT

EVENTS = ROOT / "events"


def event_of(name: str) -> Any:
    """The sample event of this name."""
    return json.loads((EVENTS / f"{name}.json").read_text())


def body_is(value: object) -> Callable[[Any], bool]:
    """Whether an HTTP answer has status 200 and this JSON value, or a whole result that returned it."""

    def check(answer: Any) -> bool:
        found = json.loads(answer["body"])
        return bool(answer["statusCode"] == 200 and found.get("returnValue", found) == value)

    return check


def failed(*identifiers: str) -> Callable[[Any], bool]:
    """Whether exactly these records of a batch failed."""
    expected = {"batchItemFailures": [{"itemIdentifier": one} for one in identifiers]}
    return lambda answer: bool(answer == expected)


def returned(value: object) -> Callable[[Any], bool]:
    """Whether a direct invocation answered with the result of a call that returned `value`."""
    return lambda answer: bool((answer["status"], answer["returnValue"]) == ("success", value))


_HELLO = body_is({"greeting": "hello bob"})
_BAD = "2e1424d4-f796-459a-8184-9c92662be6da"
_AFTER_BAD = "ea9e27a5-b9b7-4fd8-8a3e-5ad6a5d6f2f0"

ANSWERS: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "alb": _HELLO,
        "direct": returned({"count": 2}),
        "dynamodb": failed(),
        "eventbridge": lambda answer: answer is None,
        "function-url": _HELLO,
        "http-api": body_is({"id": "7", "name": "Ada"}),
        "kinesis": failed(),
        "rest-api": _HELLO,
        "s3": lambda answer: answer is None,
        "schedule": lambda answer: answer is None,
        "scheduler": lambda answer: answer is None,
        "sns": lambda answer: answer is None,
        "sqs": failed(),
        # What comes after a failed message of its group must wait for it.
        "sqs-fifo": failed(_BAD, _AFTER_BAD),
        "sqs-one-bad": failed(_BAD),
    }
)
"""By name of the event, the check of its answer."""
