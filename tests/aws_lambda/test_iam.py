"""The function's role grants what is called, and nothing else."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import botocore.session  # type: ignore[import-untyped]
import pytest
from botocore.exceptions import ClientError  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from functions.aws_lambda.emulator import Emulator
from tests.aws_lambda.emulated import ROOT, plan_of
from tests.aws_lambda.sample_events import ANSWERS, event_of
from tests.aws_lambda.stack import Stack, as_list

CALLED_BY_LAMBDA = frozenset(
    {
        # The event source mapping works on the queue in the function's name,
        ("sqs:ReceiveMessage", "WorkQueue"),
        ("sqs:DeleteMessage", "WorkQueue"),
        ("sqs:GetQueueAttributes", "WorkQueue"),
        # failures of asynchronous invocations are put aside,
        ("sqs:SendMessage", "FailedEvents"),
        # and what is printed becomes log lines.
        ("logs:CreateLogStream", "FunctionLogs"),
        ("logs:PutLogEvents", "FunctionLogs"),
    }
)
CALLED_BY_THE_CODE: frozenset[tuple[str, str]] = frozenset()
"""The handlers' state is in memory so far: the code calls no service."""

_SERVICE = re.compile(r"Credential=[^/]+/\d+/[^/]+/([\w-]+)/")


class Recorder:
    """Stands for every AWS service at once: refuses each call, and keeps its name as IAM spells it."""

    def __init__(self) -> None:
        self.calls: set[str] = set()
        self.url = ""

    def take(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        """Note one request."""
        signed = _SERVICE.search(headers.get("authorization", ""))
        target = headers.get("x-amz-target", "").rpartition(".")[2]
        action = target or parse_qs(body.decode("latin-1")).get("Action", [f"{method} {path}"])[0]
        self.calls.add(f"{signed[1] if signed else 'unsigned'}:{action}")


@contextmanager
def recording() -> Iterator[Recorder]:
    """A recorder that listens on this machine."""
    recorder = Recorder()

    class Door(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            """Note the request and refuse it."""
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            recorder.take(self.command, self.path, headers, body)
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *_about: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        recorder.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()


def granted(stack: Stack) -> set[tuple[str, str]]:
    """What the role may always do: (action, resource of the stack)."""
    return {
        (action, resource["Fn::GetAtt"][0])
        for policy in stack.properties("FunctionRole")["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    }


def test_the_role_grants_what_is_called_and_nothing_else(stack: Stack) -> None:
    """Each grant is for a call that Lambda makes in the function's name, or that the code makes itself."""
    assert granted(stack) == CALLED_BY_LAMBDA | CALLED_BY_THE_CODE
    assert "ManagedPolicyArns" not in stack.properties("FunctionRole")


def test_the_code_calls_what_it_is_said_to_call(
    program: Path, tmp_path: Path, new_cache: Callable[[], Path]
) -> None:
    """From its start through every source of events, the function calls the services listed here only."""
    plan = plan_of(tmp_path, handlers_dir=ROOT / "handlers", cache_dir=new_cache(), store_url="memory:")
    with recording() as recorder:
        environ = {**plan.environ, "AWS_ENDPOINT_URL": recorder.url, "AWS_MAX_ATTEMPTS": "1"}
        with Emulator(program, replace(plan, environ=environ)) as emulator:
            for name, is_right in ANSWERS.items():
                reply = emulator.invoke(event_of(name))
                assert is_right(reply.value), (name, reply.body)
    assert recorder.calls == {action for action, _ in CALLED_BY_THE_CODE}


def test_a_call_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder sees AWS's own client, whichever of its protocols a service speaks."""
    with recording() as recorder:
        for name, value in {
            "AWS_ENDPOINT_URL": recorder.url,
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        session = botocore.session.get_session()
        for service, operation, arguments in (
            ("dynamodb", "get_item", {"TableName": "t", "Key": {"id": {"S": "1"}}}),
            ("sns", "publish", {"TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": "m"}),
            ("s3", "get_object", {"Bucket": "b", "Key": "k"}),
        ):
            with pytest.raises((ClientError, ResponseParserError)):
                getattr(session.create_client(service), operation)(**arguments)
    assert recorder.calls == {"dynamodb:GetItem", "sns:Publish", "s3:GET /b/k"}
