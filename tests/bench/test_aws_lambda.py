"""The rows of AWS Lambda, where their tools are missing and where a function does not do the work."""

import io
from pathlib import Path

import pytest

from bench.peers import PeerMissing, Peers
from bench.progress import Progress
from bench.rows import aws_lambda
from bench.topic import Bench
from functions.aws_lambda.emulator import Reply


def test_without_the_emulator_the_rows_tell_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured, and the reason names the command that brings the tool."""
    monkeypatch.setattr(aws_lambda, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    bench = Bench(Peers(tmp_path), quick=True, progress=Progress(1, io.StringIO()))
    with pytest.raises(PeerMissing, match="make sam-tools"):
        list(aws_lambda.TOPIC.measure(bench, frozenset({"lambda.init"})))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(502, b'{"errorType": "ConfigError", "errorMessage": "no"}'),
        Reply(200, b'{"errorType": "INVALID_REQUEST", "errorMessage": "no"}'),
        Reply(200, b'{"status": "error", "returnValue": null}'),
        Reply(200, b"null"),
    ],
)
def test_an_answer_that_is_not_the_work_is_not_timed(reply: Reply) -> None:
    """A function that fails fast is no fast function."""
    with pytest.raises(aws_lambda.AnswerWrong):
        aws_lambda.check_answer(reply)
