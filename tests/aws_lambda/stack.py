"""The CloudFormation that template.yaml becomes, as the tests of this folder look at it."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.aws_lambda.emulated import ROOT, SECONDS

SAM_TOOLS = ROOT / ".venv-sam" / "bin"
TEMPLATE = ROOT / "template.yaml"
OF_THE_ALIAS = "NexusFunctionAliaslive"

# Runs in the SAM CLI's own environment. `sam deploy` would have put the code into S3 before.
_TRANSLATE = """
import json, sys
import boto3
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

template = yaml_parse(open(sys.argv[1]).read())
template["Resources"]["NexusFunction"]["Properties"]["CodeUri"] = "s3://bucket/key"
translator = Translator(
    managed_policy_map={}, sam_parser=Parser(), boto_session=boto3.Session(region_name="us-east-1")
)
found = translator.translate(template, parameter_values={})
text = json.dumps(found, default=str)
matches = lint(text, config=ManualArgs(regions=["us-east-1"]))
print(json.dumps({"template": json.loads(text), "lint": [str(match) for match in matches]}))
"""


class Stack:
    """The translated template; `lint` is what cfn-lint said of it."""

    def __init__(self, template: Mapping[str, Any], lint: Sequence[str]) -> None:
        self.lint = lint
        self.template = template
        self.resources: Mapping[str, Mapping[str, Any]] = template["Resources"]
        self.parameters: Mapping[str, Mapping[str, Any]] = template["Parameters"]

    def properties(self, name: str) -> Any:
        """What a resource is made with."""
        return self.resources[name]["Properties"]

    def of_type(self, kind: str) -> dict[str, Any]:
        """The properties of every resource of one type."""
        return {
            name: self.properties(name) for name, about in self.resources.items() if about["Type"] == kind
        }

    def environ(self) -> dict[str, str]:
        """The function's variables with the parameters' defaults; the secret is 64 letters."""
        variables = self.properties("NexusFunction")["Environment"]["Variables"]
        return {name: self._text(value) for name, value in variables.items()}

    def statements(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every statement of every policy, with the name of its resource."""
        for name, about in self.resources.items():
            for document in _documents(about["Properties"]):
                for statement in document["Statement"]:
                    yield name, statement

    def _text(self, value: Any) -> str:
        if value == {"Ref": "AWS::StackName"}:
            return "nexus"
        if isinstance(value, dict) and "Ref" in value:
            return str(self.parameters[value["Ref"]]["Default"])
        if value == {"Fn::Sub": "{{resolve:secretsmanager:${TokenSecret}}}"}:
            return "s" * 64
        return str(value)


def translate(target: Path) -> None:
    """Write what the template is when it is deployed; skips the test without the SAM CLI."""
    done = run_sam_tool("python", "-c", _TRANSLATE, str(TEMPLATE))
    assert done.returncode == 0, done.stderr
    target.write_text(done.stdout)


def read_stack(target: Path) -> Stack:
    """What `translate` wrote."""
    made = json.loads(target.read_text())
    return Stack(made["template"], made["lint"])


def run_sam_tool(
    program: str, *arguments: str, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of the SAM CLI's environment; skips the test where there is none."""
    if not SAM_TOOLS.exists():
        pytest.skip("the SAM CLI is not installed: `make sam-tools` brings it")
    environ = {**os.environ, "SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1", **variables}
    # Its thousands of modules take seconds to compile: once is enough.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run(
        [SAM_TOOLS / program, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )


def as_list(value: Any) -> list[Any]:
    """A value that may stand alone or in a list, as in policies."""
    return value if isinstance(value, list) else [value]


def _documents(properties: Any) -> Iterator[Mapping[str, Any]]:
    """The policy documents of a resource; who may take on a role is no permission of the role."""
    for key, value in properties.items() if isinstance(properties, dict) else ():
        if key == "PolicyDocument":
            yield value
        for inner in as_list(value):
            yield from _documents(inner)
