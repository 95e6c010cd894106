"""Capability tokens and sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.capabilities import CAPABILITY_FORMS, MAX_TOKENS, CapabilitySet, CapabilityToken
from nexus_core.errors import InvalidHandler

# A small alphabet makes nested prefixes and equal names frequent.
NAMES = st.text(alphabet="ab.", max_size=4)
STEMS = NAMES.filter(bool)
KINDS = st.sampled_from([kind for kind in CAPABILITY_FORMS if kind != "crypto"])
TOKENS = st.one_of(
    st.just("crypto:random"),
    st.builds("{}:{}".format, KINDS, STEMS),
    st.builds("{}:{}*".format, KINDS, NAMES),
)
SETS = st.lists(TOKENS, max_size=8).map(CapabilitySet.parse)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state:read:count", CapabilityToken("state:read", "count", False)),
        ("state:write:*", CapabilityToken("state:write", "", True)),
        ("events:emit:user.*", CapabilityToken("events:emit", "user.", True)),
        ("view:update:a:b", CapabilityToken("view:update", "a:b", False)),
        ("ext:http", CapabilityToken("ext", "http", False)),
        ("crypto:random", CapabilityToken("crypto", "random", False)),
    ],
)
def test_parse_reads_every_form(text: str, expected: CapabilityToken) -> None:
    """Each form of token is read into its kind, name and prefix flag, and written back the same."""
    assert CapabilityToken.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not known"),
        ("*", "is not known"),
        ("state:red:x", "is not known; allowed are state:read:KEY"),
        ("state:read", "is not known"),
        ("State:read:x", "is not known"),
        ("state:read:", "needs a printable name"),
        ("state:read:a\nb", "needs a printable name"),
        ("state:read:a\ud800", "needs a printable name"),
        ("state:read:*a", "only be the last character"),
        ("events:emit:user.**", "only be the last character"),
        ("crypto:*", "its kind has only"),
        ("crypto:sign", "its kind has only"),
        ("ext:" + "x" * 600, "at most 600 may be"),
        (7, "must be a string, not int"),
    ],
)
def test_parse_refuses_what_is_no_token(text: str, reason: str) -> None:
    """A bad token is refused with the reason, and a set's error names it."""
    with pytest.raises(InvalidHandler, match=reason.replace("*", r"\*")):
        CapabilitySet.parse(["ext:http", text])


def test_parse_bounds_the_number_of_tokens() -> None:
    """As many tokens as the bound are accepted, one more is refused."""
    texts = [f"ext:e{number}" for number in range(MAX_TOKENS)]
    assert len(CapabilitySet.parse(texts).tokens) == MAX_TOKENS
    with pytest.raises(InvalidHandler, match="too many capabilities"):
        CapabilitySet.parse([*texts, "ext:http"])


def test_empty_set_allows_nothing() -> None:
    """A set without tokens is false and allows no operation."""
    assert not CapabilitySet()
    assert not any(CapabilitySet().allows(kind, name) for kind in CAPABILITY_FORMS for name in ("", "random"))


def test_allows_is_per_kind() -> None:
    """A name allowed for reading is not thereby allowed for writing, and no unknown kind is allowed."""
    reading = CapabilitySet.parse(["state:read:*"])
    assert reading.allows("state:read", "count")
    assert not reading.allows("state:write", "count")
    assert not reading.allows("state", "read:count")


def test_exact_name_is_no_prefix() -> None:
    """An exact token allows that name only; a prefix allows the stem itself and all that starts with it."""
    one = CapabilitySet.parse(["events:emit:user", "ext:ht*"])
    assert one.allows("events:emit", "user")
    assert not one.allows("events:emit", "user.loaded")
    assert one.allows("ext", "ht")
    assert one.allows("ext", "http")
    assert not one.allows("ext", "h")


def test_set_keeps_its_shortest_form() -> None:
    """Tokens that another covers are dropped, so sets that allow the same are equal and hash alike."""
    wide = CapabilitySet.parse(["state:read:a*", "state:read:ab", "state:read:ab*", "ext:http"])
    assert wide.tokens == ("ext:http", "state:read:a*")
    assert wide.patterns("state:read") == ("a*",)
    assert wide.patterns("view:update") == ()
    assert wide == CapabilitySet.parse(["ext:http", "state:read:a*"])
    assert len({wide, CapabilitySet.parse(reversed(wide.tokens))}) == 1
    assert "state:read:a*" in repr(wide)


@pytest.mark.parametrize(
    ("one", "two", "both"),
    [
        ("ext:a*", "ext:ab*", ["ext:ab*"]),
        ("ext:a*", "ext:a*", ["ext:a*"]),
        ("ext:a*", "ext:ab", ["ext:ab"]),
        ("ext:ab", "ext:ab", ["ext:ab"]),
        ("ext:ab*", "ext:ac*", []),
        ("ext:ab*", "ext:a", []),
        ("state:read:*", "state:write:*", []),
    ],
)
def test_narrowed_pairs(one: str, two: str, both: list[str]) -> None:
    """Of two nested patterns the narrower one is left, of two that share nothing none."""
    first, second = CapabilitySet.parse([one]), CapabilitySet.parse([two])
    assert first.narrowed(second) == second.narrowed(first) == CapabilitySet.parse(both)


@given(SETS, SETS, KINDS, NAMES)
def test_narrowed_is_the_intersection(one: CapabilitySet, two: CapabilitySet, kind: str, name: str) -> None:
    """The narrowed set allows a name exactly when both sets do, whichever way it is asked."""
    both = one.narrowed(two)
    assert both.allows(kind, name) == (one.allows(kind, name) and two.allows(kind, name))
    assert both == two.narrowed(one)
    assert both.narrowed(one) == both


@given(st.lists(TOKENS, max_size=8), KINDS, NAMES)
def test_set_allows_what_some_token_matches(texts: list[str], kind: str, name: str) -> None:
    """A set allows a name exactly when one of the tokens it was parsed from matches it."""
    matches = any(
        text == f"{kind}:{name}" or (text.endswith("*") and f"{kind}:{name}".startswith(text[:-1]))
        for text in texts
    )
    assert CapabilitySet.parse(texts).allows(kind, name) == matches


@given(SETS)
def test_tokens_round_trip(one: CapabilitySet) -> None:
    """Parsing a set's own tokens gives an equal set."""
    assert CapabilitySet.parse(one.tokens) == one
