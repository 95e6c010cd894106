"""The template: clean by AWS's own tools, and what is promised of it."""

import json
import re

import pytest

from nexus_core.config import load_config
from tests.aws_lambda.emulated import ROOT
from tests.aws_lambda.stack import OF_THE_ALIAS, Stack, as_list, run_sam_tool

ALIAS = {"Ref": OF_THE_ALIAS}
MOST_MEMORY_MB, MOST_SECONDS, MOST_SNAPSTART_TMP_MB = 10_240, 900, 512
MOST_ENVIRON_BYTES = 4096
HTTP_API_SECONDS = 30
TRACING_ACTIONS = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]


def test_the_template_is_valid() -> None:
    """`sam validate --lint` finds nothing."""
    done = run_sam_tool("sam", "validate", "--lint")
    assert (done.returncode, "is a valid SAM Template" in done.stdout) == (0, True), done.stderr


def test_what_is_deployed_is_clean(stack: Stack) -> None:
    """cfn-lint finds nothing in the translated template, where it looks deeper than in SAM's own form."""
    assert stack.lint == []


def test_the_function_runs_what_there_is(stack: Stack) -> None:
    """Python 3.13, a handler that exists, and an architecture the package can be built for."""
    function = stack.properties("NexusFunction")
    module, _, name = function["Handler"].rpartition(".")
    assert function["Runtime"] == "python3.13"
    assert re.search(rf"^{name}\b", (ROOT / f"{module.replace('.', '/')}.py").read_text(), re.MULTILINE)
    assert function["Architectures"] == [{"Ref": "Architecture"}]
    assert stack.parameters["Architecture"]["AllowedValues"] == ["x86_64", "arm64"]


def test_every_source_invokes_the_published_alias(stack: Stack) -> None:
    """SnapStart works for published versions only, so nothing may go round the alias."""
    assert stack.properties("NexusFunction")["SnapStart"] == {"ApplyOn": {"Ref": "SnapStart"}}
    assert stack.parameters["SnapStart"]["Default"] == "PublishedVersions"
    assert stack.properties(OF_THE_ALIAS)["Name"] == "live"
    (mapping,) = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    (url,) = stack.of_type("AWS::Lambda::Url").values()
    (schedule,) = stack.of_type("AWS::Scheduler::Schedule").values()
    (rule,) = stack.of_type("AWS::Events::Rule").values()
    permissions = stack.of_type("AWS::Lambda::Permission").values()
    targets = [mapping["FunctionName"], url["TargetFunctionArn"], schedule["Target"]["Arn"]]
    targets += [target["Arn"] for target in rule["Targets"]]
    assert all(target == ALIAS for target in (*targets, *(one["FunctionName"] for one in permissions)))
    assert f"${{{OF_THE_ALIAS}}}" in json.dumps(stack.properties("HttpApi"))
    (asynchronous,) = stack.of_type("AWS::Lambda::EventInvokeConfig").values()
    assert asynchronous["Qualifier"] == "live"


def test_no_limit_of_lambda_is_passed(stack: Stack) -> None:
    """Memory, time and /tmp stay within what ordinary functions get; the schemas allow more by now."""
    memory, timeout = stack.parameters["MemorySize"], stack.parameters["Timeout"]
    assert 128 <= memory["MinValue"] <= memory["Default"] <= memory["MaxValue"] <= MOST_MEMORY_MB
    assert max(int(seconds) for seconds in timeout["AllowedValues"]) <= MOST_SECONDS
    assert stack.properties("NexusFunction")["EphemeralStorage"]["Size"] <= MOST_SNAPSTART_TMP_MB
    assert int(timeout["Default"]) <= HTTP_API_SECONDS


def test_nexus_starts_with_the_functions_variables(stack: Stack) -> None:
    """Each setting is one Nexus has and takes, in room of Lambda's 4 KB, and callers need a token."""
    environ = stack.environ()
    config = load_config(environ)
    assert (config.auth, config.min_instances, config.store_url) == ("jwt", 1, "memory:")
    assert (str(config.handlers_dir), str(config.cache_seed_dir)) == ("/var/task/handlers", "/var/task/seed")
    assert sum(len(name) + len(value) for name, value in environ.items()) < MOST_ENVIRON_BYTES // 2
    assert (environ["POWERTOOLS_SERVICE_NAME"], environ["POWERTOOLS_METRICS_NAMESPACE"]) == ("nexus", "Nexus")
    for level in stack.parameters["LogLevel"]["AllowedValues"]:
        load_config({**environ, "NEXUS_LOG_LEVEL": level})


def test_nobody_chooses_the_secret(stack: Stack) -> None:
    """The key of callers' tokens is made by Secrets Manager: no parameter and no file ever holds it."""
    made = stack.properties("TokenSecret")["GenerateSecretString"]
    assert made["PasswordLength"] >= 32
    assert not [name for name in stack.parameters if "Secret" in name or "Key" in name]


def test_failed_messages_are_told_one_by_one_and_kept(stack: Stack) -> None:
    """A batch's failures are single; what fails five times, or cannot be delivered, waits in a queue."""
    (mapping,) = stack.of_type("AWS::Lambda::EventSourceMapping").values()
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    redrive = stack.properties("WorkQueue")["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": ["WorkDeadLetters", "Arn"]}
    assert redrive["maxReceiveCount"] >= 5
    (asynchronous,) = stack.of_type("AWS::Lambda::EventInvokeConfig").values()
    failed = {"Fn::GetAtt": ["FailedEvents", "Arn"]}
    assert asynchronous["DestinationConfig"]["OnFailure"]["Destination"] == failed
    (rule,) = stack.of_type("AWS::Events::Rule").values()
    assert [target["DeadLetterConfig"]["Arn"] for target in rule["Targets"]] == [failed]
    assert all(queue["SqsManagedSseEnabled"] for queue in stack.of_type("AWS::SQS::Queue").values())
    kept = [stack.properties(name)["MessageRetentionPeriod"] for name in ("WorkDeadLetters", "FailedEvents")]
    assert kept == [14 * 24 * 3600] * 2


def test_what_follows_from_the_timeout_does(stack: Stack) -> None:
    """For each timeout: six times it to handle a batch, an alarm at 80 percent, one for three late tries."""
    by_timeout = stack.template["Mappings"]["ByTimeout"]
    assert list(by_timeout) == stack.parameters["Timeout"]["AllowedValues"]
    for seconds, numbers in by_timeout.items():
        assert numbers["QueueVisibility"] >= 6 * int(seconds)
        assert numbers["SlowMilliseconds"] == 800 * int(seconds)
        assert numbers["OldSeconds"] >= 3 * numbers["QueueVisibility"]
    assert stack.properties("WorkQueue")["VisibilityTimeout"] == {
        "Fn::FindInMap": ["ByTimeout", {"Ref": "Timeout"}, "QueueVisibility"]
    }


@pytest.mark.parametrize("name", ["StateTable", "SuspensionTable"])
def test_tables_cost_nothing_idle_and_lose_nothing(stack: Stack, name: str) -> None:
    """On demand, entries that expire, recovery to any second, encrypted, and kept when the stack goes."""
    table = stack.properties(name)
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["TimeToLiveSpecification"]["Enabled"] is True
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert table["SSESpecification"]["SSEEnabled"] is True
    assert stack.resources[name]["DeletionPolicy"] == "Retain"


def test_the_bucket_is_closed(stack: Stack) -> None:
    """Encrypted, versioned, private whatever a policy may say, and never spoken to in the clear."""
    bucket = stack.properties("HandlerBucket")
    assert bucket["VersioningConfiguration"]["Status"] == "Enabled"
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    (statement,) = stack.properties("HandlerBucketPolicy")["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_logs_are_not_kept_for_ever(stack: Stack) -> None:
    """Every log group forgets, the function's own and the API's; the function writes to no other."""
    groups = stack.of_type("AWS::Logs::LogGroup")
    assert {group["RetentionInDays"]["Ref"] for group in groups.values()} == {"LogRetentionDays"}
    assert stack.properties("NexusFunction")["LoggingConfig"]["LogGroup"] == {"Ref": "FunctionLogs"}


def test_trouble_raises_an_alarm(stack: Stack) -> None:
    """There is an alarm for errors, throttles, slowness, each queue of failures, and a queue left behind."""
    alarms = stack.of_type("AWS::CloudWatch::Alarm").values()
    watched = {(alarm["MetricName"], json.dumps(alarm["Dimensions"][0]["Value"])) for alarm in alarms}
    function = '{"Ref": "NexusFunction"}'
    assert watched == {
        ("Errors", function),
        ("Throttles", function),
        ("Duration", function),
        ("ApproximateNumberOfMessagesVisible", '{"Fn::GetAtt": ["WorkDeadLetters", "QueueName"]}'),
        ("ApproximateNumberOfMessagesVisible", '{"Fn::GetAtt": ["FailedEvents", "QueueName"]}'),
        ("ApproximateAgeOfOldestMessage", '{"Fn::GetAtt": ["WorkQueue", "QueueName"]}'),
    }
    assert all(alarm["TreatMissingData"] == "notBreaching" for alarm in alarms)


def test_no_policy_grants_everything(stack: Stack) -> None:
    """No grant names every action or every resource, but X-Ray's two, which know none, while it is on."""
    for name, statement in stack.statements():
        if statement["Effect"] == "Deny":
            continue
        actions, resources = as_list(statement["Action"]), as_list(statement["Resource"])
        assert not [action for action in actions if "*" in action]
        if name == "TracingPolicy":
            assert (actions, resources) == (TRACING_ACTIONS, ["*"])
        else:
            assert "*" not in json.dumps(resources), name
    assert stack.resources["TracingPolicy"]["Condition"] == "TracingOn"
    assert stack.template["Conditions"]["TracingOn"] == {"Fn::Equals": [{"Ref": "Tracing"}, "Active"]}
    assert stack.parameters["Tracing"]["Default"] == "PassThrough"


def test_strangers_get_in_only_where_that_was_asked_for(stack: Stack) -> None:
    """Services invoke for a source of this stack; everybody may only when the URL was opened."""
    assert stack.parameters["FunctionUrlAuth"]["Default"] == "AWS_IAM"
    assert stack.template["Conditions"]["UrlIsOpen"] == {"Fn::Equals": [{"Ref": "FunctionUrlAuth"}, "NONE"]}
    open_to_all = set()
    for name, permission in stack.of_type("AWS::Lambda::Permission").items():
        if permission["Principal"] == "*":
            assert stack.resources[name]["Condition"] == "UrlIsOpen"
            assert "FunctionUrlAuthType" in permission or permission["InvokedViaFunctionUrl"] is True
            open_to_all.add(permission["Action"])
        else:
            assert permission["SourceArn"]
    assert open_to_all == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
