"""Manifests."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.capabilities import CapabilitySet
from nexus_core.errors import InvalidHandler
from nexus_core.limits import ResourceLimits
from nexus_core.manifest import MAX_MANIFEST_BYTES, MAX_TRIGGERS, Manifest, parse_manifest

DEFAULTS = ResourceLimits(timeout_ms=1234, max_events=7)

FULL = """\
capabilities = ["state:read:*", "state:write:count", "events:emit:user.*", "ext:http"]
entry = "main.ts"
[limits]
timeout_ms = 2000
[env]
STAGE = "prod"
[http]
allow = ["api.example.com"]
[[triggers]]
http = "GET /users/{id}"
[[triggers]]
cloudevent = "com.example.user.created"
[[triggers]]
sqs = "users-queue"
"""


def refused(text: str) -> InvalidHandler:
    """The error a manifest is refused with."""
    with pytest.raises(InvalidHandler) as caught:
        parse_manifest(text, "nexus.toml", DEFAULTS)
    return caught.value


def test_full_manifest_is_read() -> None:
    """Every part of the documented example arrives in its field."""
    manifest = parse_manifest(FULL, "nexus.toml", DEFAULTS)
    assert manifest.capabilities == CapabilitySet.parse(
        ["state:read:*", "state:write:count", "events:emit:user.*", "ext:http"]
    )
    assert manifest.entry == "main.ts"
    assert manifest.limits == ResourceLimits(timeout_ms=2000, max_events=7)
    assert manifest.env == {"STAGE": "prod"}
    assert manifest.extensions == {"http": {"allow": ["api.example.com"]}}
    assert manifest.triggers == (
        ("http", "GET /users/{id}"),
        ("cloudevent", "com.example.user.created"),
        ("sqs", "users-queue"),
    )


def test_empty_manifest_gives_the_defaults() -> None:
    """Nothing said means no capabilities, no triggers and the operator's limits."""
    assert parse_manifest("", "nexus.toml", DEFAULTS) == Manifest(limits=DEFAULTS)
    assert not Manifest().capabilities


def test_limit_may_exceed_the_default_within_its_range() -> None:
    """The operator's limits are defaults: a manifest may ask for more, up to the allowed range."""
    wide = parse_manifest("[limits]\nmax_events = 10000000", "nexus.toml", DEFAULTS)
    assert wide.limits.max_events == 10_000_000
    assert "<= 10000000" in refused("[limits]\nmax_events = 10000001").message


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("capabilities = 1", (1, 1), "capabilities must be a list of strings"),
        ("\ncapabilities = ['ext:a',\n 'state:red:x']", (3, 3), "'state:red:x' is not known"),
        ("capabilities = ['ext:a', 7]", (1, 1), "must be a string, not int"),
        ("color = 1", (1, 1), "key 'color' is not known; allowed are capabilities, entry"),
        ("\n  colors = []", (2, 3), "key 'colors' is not known"),
        ("[[http]]\nallow = []", (1, 1), "key 'http' is not known"),
        ("\n[limit]\ntimeout_ms = 1", (2, 1), "capabilities lack 'ext:limit'"),
        ("limits = 1", (1, 1), "limits must be a table"),
        ("[limits]\ncpu_ms = 1\n timeout = 1", (3, 2), "limit 'timeout' is not known; allowed are"),
        ("[limits]\ncpu_ms = -1", (2, 1), "limit cpu_ms: expected int >= 0"),
        ("[limits]\ncpu_ms = true", (2, 1), "limit cpu_ms: expected int, got bool"),
        ("limits.cpu_ms = 1.5", (1, 1), "limit cpu_ms: expected int, got float"),
        ("[limits]\nmax_events = 0x" + "f" * 5000, (2, 1), "limit max_events"),
        ("env = 1", (1, 1), "env must be a table of strings"),
        ("[env]\nA = 1", (2, 1), "env A must be a string"),
        ("[env]\n'a-b' = ''", (2, 1), "env name 'a-b' must be letters"),
        ("entry = 1", (1, 1), "entry must be a string"),
        ("triggers = 1", (1, 1), "written as [[triggers]] tables"),
        ("[triggers]\nsqs = 'x'", (1, 1), "written as [[triggers]] tables"),
        ("triggers = ['sqs']", (1, 1), "written as [[triggers]] tables"),
        ("[[triggers]]\nsqs='a'\n[[triggers]]", (3, 1), "exactly one key of http, cloudevent"),
        ("[[triggers]]\nsqs='a'\nsns='b'", (1, 1), "this one has 2"),
        ("[[triggers]]\nftp='a'", (2, 1), "trigger kind 'ftp' is not known"),
        ("[[triggers]]\nsqs=1", (2, 1), "trigger sqs must be a string"),
        ("[[triggers]]\nhttp='GET /invoke/x'", (2, 1), "claims a path of Nexus itself"),
        ("[[triggers]]\nsqs='a'\n[[triggers]]\nsqs='a'", (4, 1), "stands here twice"),
        ("[[triggers]]\nhttp='GET /{a}'\n[[triggers]]\nhttp='GET /{b}'", (4, 1), "stands here twice"),
        ("a = 1\nb = ", (2, 5), "Invalid value"),
        ("a = 1\nb c", (2, 3), "Expected '='"),
        ("x = " + "." * 501, (1, 1), "more than 500 dots"),
    ],
)
def test_what_is_wrong_is_pointed_at(text: str, place: tuple[int, int], reason: str) -> None:
    """A bad manifest is refused with the reason, the line and column of the key, and the source line."""
    error = refused(text)
    assert reason in error.message
    assert error.location == ("nexus.toml", *place)
    assert error.snippet is not None
    assert error.snippet.startswith(f"{place[0]} | ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = " + "9" * 6000, "too many digits"),
        ("a = " + "[" * 20000, "nests its values too deep"),
        ("#" + "x" * MAX_MANIFEST_BYTES, f"larger than {MAX_MANIFEST_BYTES}"),
    ],
)
def test_manifests_made_to_hurt_are_refused(text: str, reason: str) -> None:
    """Numbers, nesting and sizes that would break or stall the reader end in a plain error."""
    assert reason in refused(text).message


def test_triggers_are_bounded() -> None:
    """As many triggers as the bound are read, one more is refused."""
    tables = [f"[[triggers]]\nsqs = 'q{number}'" for number in range(MAX_TRIGGERS + 1)]
    manifest = parse_manifest("\n".join(tables[:-1]), "nexus.toml", DEFAULTS)
    assert len(manifest.triggers) == MAX_TRIGGERS
    assert f"at most {MAX_TRIGGERS} triggers" in refused("\n".join(tables)).message


def test_manifest_cannot_be_changed_afterwards() -> None:
    """Calls share one manifest, so its tables refuse writes."""
    manifest = parse_manifest(FULL, "nexus.toml", DEFAULTS)
    with pytest.raises(TypeError, match="does not support item assignment"):
        manifest.env["STAGE"] = "test"  # type: ignore[index]
    with pytest.raises(TypeError, match="does not support item assignment"):
        manifest.extensions["http"]["allow"] = ["*"]  # type: ignore[index]


@given(st.one_of(st.text(), st.lists(st.sampled_from(re.split(r"(\W)", FULL)), max_size=40).map("".join)))
def test_any_text_is_a_manifest_or_a_typed_error(text: str) -> None:
    """Whatever the text, it is read or refused with `InvalidHandler`; no other error gets out."""
    with suppress(InvalidHandler):
        assert isinstance(parse_manifest(text, "nexus.toml", DEFAULTS), Manifest)
