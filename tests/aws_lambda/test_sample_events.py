"""The sample events: what the SAM CLI makes, addressed to the sample handlers."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.aws_lambda.emulated import ROOT
from tests.aws_lambda.lambda_events import Function, function_of
from tests.aws_lambda.sample_events import ANSWERS, EVENTS, event_of

MADE_BY_SAM = {
    "alb": "alb request",
    "dynamodb": "dynamodb update",
    "function-url": "apigateway http-api-proxy",
    "http-api": "apigateway http-api-proxy",
    "kinesis": "kinesis get-records",
    "rest-api": "apigateway aws-proxy",
    "s3": "s3 put",
    "schedule": "cloudwatch scheduled-event",
    "sns": "sns notification",
    "sqs": "sqs receive-message",
}
CHOSEN_BY_SENDERS = re.compile(
    r"\.(headers|multiValueHeaders|queryStringParameters|messageAttributes|NewImage|OldImage)\."
)


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """The function with the samples, in this process."""
    folder = tmp_path_factory.mktemp("samples")
    with function_of(folder, {}, handlers_dir=str(ROOT / "handlers"), log_level="error") as made:
        yield made


@pytest.mark.parametrize("name", sorted(path.stem for path in EVENTS.glob("*.json")))
def test_each_sample_event_reaches_its_handler(function: Function, name: str) -> None:
    """Every file of events/ is answered by a sample handler, and a bad record fails alone."""
    answer = function(event_of(name))
    assert ANSWERS[name](answer), answer


@pytest.mark.parametrize(("name", "kind"), MADE_BY_SAM.items())
def test_the_sample_events_have_the_shape_that_sam_makes(
    sam_events: dict[str, Any], name: str, kind: str
) -> None:
    """Names and values were changed to meet the samples, but no key was made up."""
    ours, theirs = set(paths(event_of(name))), set(paths(sam_events[kind]))
    assert [path for path in ours - theirs if not CHOSEN_BY_SENDERS.search(path)] == []


def paths(value: Any, place: str = "") -> Iterator[str]:
    """The place of every key in a JSON value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{place}.{key}"
            yield from paths(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from paths(inner, f"{place}[{number}]")
