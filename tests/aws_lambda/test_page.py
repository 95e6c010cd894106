"""docs/lambda.md: its commands exist, its numbers are those of the code and of the template."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import botocore.session  # type: ignore[import-untyped]
import pytest

from functions.aws_lambda.emulator import INVOKE_PATH
from functions.aws_lambda.replies import MAX_REPLY_BYTES
from functions.http.auth import TokenVerifier
from tests.aws_lambda.emulated import ROOT
from tests.aws_lambda.stack import Stack, run_sam_tool

PAGE = (ROOT / "docs" / "lambda.md").read_text()
SECRET = "s" * 64
# Options of the command itself, which no operation has.
AWS_OPTIONS = {"query", "output", "region"}

_PARSE = """
import json, sys
from samcli.cli.main import cli

for arguments in json.loads(sys.argv[1]):
    try:
        cli.main([*arguments, "--help"], prog_name="sam", standalone_mode=False)
    except BaseException as error:
        sys.exit(f"sam {' '.join(arguments)}: {error!r}")
"""


def commands(program: str) -> list[list[str]]:
    """The arguments of each command the page shows of a program: in blocks, in `$(...)` and in the text."""
    fenced = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    blocks = "".join(found[2] for found in fenced.finditer(PAGE) if found[1] == "sh")
    lines = [*blocks.splitlines(), *re.findall(r"\$\(([^)]+)\)", blocks)]
    lines += re.findall(r"`([^`]+)`", fenced.sub("", PAGE).replace("\n", " "))
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{program} ")]


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the table under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and not line.startswith(("| parameter", "| what", "|--")):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_every_parameter_is_told(stack: Stack) -> None:
    """The table of parameters has each one of the template, with its default."""
    told = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("Parameters of the stack")}
    there = {name: str(about["Default"]) or "empty" for name, about in stack.parameters.items()}
    assert told == there


def test_quotas_are_those_that_are_kept(stack: Stack) -> None:
    """The sizes and times of the page are the ones that code, recipe and template keep."""
    quotas = dict(list(rows("Quotas")))
    recipe = (ROOT / "infra" / "lambda" / "package.py").read_text()
    assert f"{MAX_REPLY_BYTES:,} bytes" in quotas["event and answer of a synchronous invocation"]
    assert "MAX_BYTES = 150_000_000" in recipe
    assert "fails at 150 MB" in quotas["package"]
    longest = max(int(value) for value in stack.parameters["Timeout"]["AllowedValues"])
    assert quotas["time of an invocation; of a request to the HTTP API"] == f"{longest} s; 30 s"
    assert "512 MB" in quotas["`/tmp`"]
    assert stack.properties("NexusFunction")["EphemeralStorage"]["Size"] == 512
    assert INVOKE_PATH in PAGE


def test_sam_takes_its_commands() -> None:
    """Each `sam` command of the page has a subcommand and options of the SAM CLI that is installed."""
    found = [*commands(".venv-sam/bin/sam"), *commands("sam")]
    assert {line[0] for line in found} == {"deploy", "remote", "list", "logs", "delete", "local"}
    done = run_sam_tool("python", "-c", _PARSE, json.dumps(found))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands("aws"), ids=lambda words: " ".join(words[:2]))
def test_aws_takes_its_commands(command: list[str]) -> None:
    """Each `aws` command of the page is an operation of its service, with options that it has."""
    service, operation, *rest = command
    service = service.removesuffix("api")  # s3api: the command line has an s3 of its own
    model = botocore.session.get_session().get_service_model(service)
    (name,) = (one for one in model.operation_names if kebab(one) == operation)
    members = {kebab(member) for member in model.operation_model(name).input_shape.members}
    options = {word.removeprefix("--") for word in rest if word.startswith("--")}
    assert options - AWS_OPTIONS <= members


def test_the_page_has_these_commands_of_aws() -> None:
    """None is lost by the way the commands are found."""
    assert len(commands("aws")) == 7


def kebab(name: str) -> str:
    """A name of the API as the command line spells it."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def test_the_token_command_makes_a_good_token() -> None:
    """What the page makes of a secret is a token that lets its bearer invoke every handler."""
    (program,) = re.findall(r"^\.venv/bin/python -c '(.*)'$", PAGE, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", program], env={"SECRET": SECRET}, capture_output=True, check=True
    )
    grant = TokenVerifier(SECRET).verify(done.stdout.strip())
    grant.require_invoke("orders")


def test_every_named_file_is_there() -> None:
    """The sample events the page names exist."""
    named = re.findall(r"events/[\w-]+\.json", PAGE)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
