"""What a call may do, as its guest reads it."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.capabilities import CapabilitySet
from nexus_core.engine.call import CallPolicy
from nexus_core.limits import ResourceLimits

TOKENS = ["state:read:*", "state:write:a", "events:emit:b*", "view:update:c", "ext:http", "crypto:random"]


def test_the_guest_reads_patterns_and_counts() -> None:
    """The text holds what the bootstrap's early checks need, and the handler's name and environment."""
    rules = CallPolicy("h", CapabilitySet.parse(TOKENS), ResourceLimits(max_events=7), {"KEY": "v"})
    assert msgspec.json.decode(rules.text) == {
        "read": ["*"],
        "write": ["a"],
        "emit": ["b*"],
        "view": ["c"],
        "ext": ["http"],
        "crypto": ["random"],
        "calls": 10_000,
        "mutations": 1_000,
        "events": 7,
        "logs": 65_536,
        "handler": "h",
        "env": {"KEY": "v"},
    }


policies = st.builds(
    CallPolicy,
    st.sampled_from(["h", "g"]),
    st.lists(st.sampled_from(TOKENS), max_size=3).map(CapabilitySet.parse),
    st.builds(ResourceLimits, max_events=st.integers(0, 3)),
    st.dictionaries(st.sampled_from("AB"), st.sampled_from("xy")),
)


@given(policies, policies)
def test_the_digest_tells_policies_apart(one: CallPolicy, other: CallPolicy) -> None:
    """Two policies share an image's digest exactly when the guest would read the same of both."""
    assert (one.digest == other.digest) == (one.text == other.text)
    assert 0 <= one.digest < 1 << 62


def test_nothing_is_allowed_to_nobody() -> None:
    """The policy of code that is only parsed has no capability."""
    assert not CallPolicy.none().capabilities
