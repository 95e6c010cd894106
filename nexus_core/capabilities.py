"""What a handler may do: tokens such as `state:read:user.*`, and sets of them.

A token is a kind and a name. A `*` at the end of the name makes it a prefix; it is allowed nowhere
else, so every pattern is either one exact name or "all that starts with", and the intersection of
two sets is again such a set. The host asks `allows` for every operation of every call, so a set
keeps, per kind, one frozenset of exact names and one tuple of prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, final

from nexus_core.errors import InvalidHandler

CAPABILITY_FORMS: Mapping[str, str] = MappingProxyType(
    {
        "state:read": "state:read:KEY",
        "state:write": "state:write:KEY",
        "events:emit": "events:emit:NAME",
        "view:update": "view:update:ID",
        "ext": "ext:NAME",
        "crypto": "crypto:random",
    }
)
"""Every kind of capability and how its token is written; KEY, NAME and ID may end in `*`."""

MAX_TOKENS = 256
"""The most tokens one set may be parsed from."""

MAX_TOKEN_LENGTH = 600
"""The most characters of one token: a state key of 512 and its kind fit."""


class CapabilityToken(NamedTuple):
    """One capability: its kind, and an exact name, or a prefix of names when `is_prefix`."""

    kind: str
    name: str
    is_prefix: bool

    @classmethod
    def parse(cls, text: str) -> CapabilityToken:
        """Read `KIND:NAME`; raises `InvalidHandler` that names the token and what is allowed."""
        # Trust changes hands here: the text is a manifest's or a caller's.
        if not isinstance(text, str):
            raise InvalidHandler(f"a capability must be a string, not {type(text).__name__}")
        if len(text) > MAX_TOKEN_LENGTH:
            raise InvalidHandler(
                f"capability {text[:60]!r}... has {len(text)} characters; at most {MAX_TOKEN_LENGTH} may be"
            )
        kind, name = _split(text)
        is_prefix = name.endswith("*")
        stem = name[:-1] if is_prefix else name
        if not name or not name.isprintable():
            raise InvalidHandler(f"capability {text!r} needs a printable name after {kind + ':'!r}")
        if "*" in stem:
            raise InvalidHandler(f"capability {text!r}: '*' may only be the last character")
        if kind == "crypto" and name != "random":
            raise InvalidHandler(f"capability {text!r} is not known; its kind has only 'crypto:random'")
        return cls(kind, stem, is_prefix)

    def __str__(self) -> str:
        return f"{self.kind}:{self.pattern}"

    @property
    def pattern(self) -> str:
        """The name as it is written, with its `*`."""
        return f"{self.name}*" if self.is_prefix else self.name


class _Rules(NamedTuple):
    """The names one kind allows. No prefix starts with another, no exact name starts with a prefix."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]


_NOTHING = _Rules(frozenset(), ())


@final
class CapabilitySet:
    """An immutable, hashable set of capabilities; `CapabilitySet()` allows nothing.

    Sets are kept in their shortest form (a token that another one covers is dropped), so two sets
    are equal exactly when they allow the same things.
    """

    __slots__ = ("_hash", "_rules", "tokens")

    tokens: tuple[str, ...]
    """The tokens in their shortest form, sorted."""

    def __init__(self, tokens: Iterable[CapabilityToken] = ()) -> None:
        grouped: dict[str, list[CapabilityToken]] = {}
        for token in tokens:
            grouped.setdefault(token.kind, []).append(token)
        self._rules: dict[str, _Rules] = {kind: _shortest(group) for kind, group in grouped.items()}
        self.tokens = tuple(
            sorted(f"{kind}:{pattern}" for kind in self._rules for pattern in self.patterns(kind))
        )
        self._hash = hash(self.tokens)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> CapabilitySet:
        """Read tokens; raises `InvalidHandler` that names the first bad one."""
        parsed = []
        for text in texts:
            parsed.append(CapabilityToken.parse(text))
            if len(parsed) > MAX_TOKENS:
                raise InvalidHandler(f"too many capabilities: at most {MAX_TOKENS} are allowed")
        return cls(parsed)

    def allows(self, kind: str, name: str) -> bool:
        """Whether `name` may be used in the way `kind` says; an unknown kind is never allowed."""
        rules = self._rules.get(kind)
        return rules is not None and (name in rules.exact or name.startswith(rules.prefixes))

    def narrowed(self, other: CapabilitySet) -> CapabilitySet:
        """What both sets allow: the result allows a name exactly when `self` and `other` do."""
        return CapabilitySet(
            token
            for kind, mine in self._rules.items()
            for token in _common(kind, mine, other._rules.get(kind, _NOTHING))
        )

    def patterns(self, kind: str) -> tuple[str, ...]:
        """The names and prefixes (written with `*`) of one kind, sorted."""
        rules = self._rules.get(kind, _NOTHING)
        return tuple(sorted([*rules.exact, *(f"{prefix}*" for prefix in rules.prefixes)]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CapabilitySet) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return bool(self.tokens)

    def __repr__(self) -> str:
        return f"CapabilitySet.parse({list(self.tokens)!r})"


def _split(text: str) -> tuple[str, str]:
    """A token's kind and name; raises `InvalidHandler` when the kind is not known."""
    for kind in CAPABILITY_FORMS:
        if text.startswith(f"{kind}:"):
            return kind, text[len(kind) + 1 :]
    forms = ", ".join(CAPABILITY_FORMS.values())
    raise InvalidHandler(f"capability {text!r} is not known; allowed are {forms}, where '*' may end a name")


def _shortest(tokens: Iterable[CapabilityToken]) -> _Rules:
    """The rules of one kind without those that a prefix covers anyway."""
    exact: set[str] = set()
    prefixes: set[str] = set()
    for token in tokens:
        (prefixes if token.is_prefix else exact).add(token.name)
    kept: list[str] = []
    # Sorted, a prefix stands before everything that starts with it.
    for prefix in sorted(prefixes):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    covering = tuple(kept)
    return _Rules(frozenset(name for name in exact if not name.startswith(covering)), covering)


def _common(kind: str, one: _Rules, two: _Rules) -> Iterable[CapabilityToken]:
    """The tokens of one kind that both rules allow: of two nested prefixes, the longer one."""
    for left, right in ((one, two), (two, one)):
        for name in left.exact:
            if name in right.exact or name.startswith(right.prefixes):
                yield CapabilityToken(kind, name, is_prefix=False)
        for prefix in left.prefixes:
            if prefix.startswith(right.prefixes):
                yield CapabilityToken(kind, prefix, is_prefix=True)
