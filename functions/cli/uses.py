"""Which capabilities a handler's source uses, as far as reading it can tell.

Only plain uses are seen: `$state.count`, `$emit("name")`, `$ext.http`, `$view.update("id")`,
`crypto.randomUUID`. A name that is computed is a use whose name is not known; code that is never
reached counts like any other. So this advises an author; what a handler may do is decided by the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from nexus_core.engine.lexer import Kind, Token, tokens
from nexus_core.engine.source_map import position_at
from nexus_core.errors import SourceLocation
from nexus_core.handler_source import CODE_SUFFIXES

_CHANGING_METHODS = frozenset(
    ("add", "clear", "copyWithin", "fill", "pop", "push", "reverse", "shift", "sort", "splice", "unshift")
)
_CRYPTO_METHODS = frozenset(("getRandomValues", "randomUUID"))
_COMPOUND = re.compile(r"(?:\*\*|<<|>>>?|&&|\|\||\?\?|[-+*/%&|^])=(?!=)")


class Use(NamedTuple):
    """One use of a capability. `name` ends in `*` when only its beginning is known; None when nothing is."""

    kind: str
    name: str | None
    location: SourceLocation
    text: str
    """The use as it is written, e.g. `$state.count`."""

    @property
    def token(self) -> str | None:
        """The capability that would allow it; None when that cannot be told."""
        return None if self.name is None else f"{self.kind}:{self.name}"


def find_uses(files: Mapping[str, str]) -> Iterator[Use]:
    """Every use in a handler's code files, file by file, in the order they stand."""
    for name, text in files.items():
        if name.endswith(CODE_SUFFIXES):
            yield from _Reader(name, text).uses()


class _Name(NamedTuple):
    """A name that was read, and the index of the token after it."""

    name: str | None
    after: int


class _Reader:
    """Reads the uses of one file off its tokens."""

    def __init__(self, file: str, source: str) -> None:
        self._file = file
        self._source = source
        self._tokens: Sequence[Token] = list(tokens(source))

    def uses(self) -> Iterator[Use]:
        """The uses of this file."""
        readers = {
            "$state": self._state,
            "$emit": self._emit,
            "$ext": self._extension,
            "$view": self._view,
            "crypto": self._crypto,
        }
        for at, token in enumerate(self._tokens):
            read = readers.get(self._text(at)) if token.kind is Kind.WORD else None
            # `other.$state` is a property of something else.
            if read is not None and self._text(at - 1) not in (".", "?."):
                for kind, found in read(at):
                    yield self._use(kind, found, at)

    def _use(self, kind: str, found: _Name, at: int) -> Use:
        start, end = self._tokens[at].start, self._tokens[min(found.after, len(self._tokens)) - 1].end
        place = position_at(self._source, start)
        return Use(
            kind, found.name, SourceLocation(self._file, *place), self._source[start : max(start, end)]
        )

    def _text(self, at: int) -> str:
        """The text of a token; empty before the first and behind the last."""
        if not 0 <= at < len(self._tokens):
            return ""
        token = self._tokens[at]
        return self._source[token.start : token.end]

    def _state(self, at: int) -> Iterator[tuple[str, _Name]]:
        if self._text(at - 1) == "in" and self._is(at - 2, Kind.STRING):
            yield "state:read", _Name(_literal(self._text(at - 2)), at + 1)
            return
        found = self._member(at + 1)
        if found is None:
            # Handed on as a whole, as in `Object.keys($state)`: which keys matter is not written here.
            yield "state:read", _Name(None, at + 1)
            return
        for way in self._ways(at, found.after):
            yield f"state:{way}", found

    def _ways(self, start: int, after: int) -> Iterable[str]:
        """Whether the key from token `start` to `after` is read, written, or both."""
        last, inner = "", after
        while (deeper := self._member(inner)) is not None:
            last, inner = deeper.name or "", deeper.after
        if self._text(start - 1) == "delete":
            return ("write",) if inner == after else ("read", "write")
        if inner > after and self._text(inner) == "(" and last in _CHANGING_METHODS:
            return ("read", "write")
        if {"++", "--"} & {self._text(inner), self._text(start - 1)}:
            return ("read", "write")
        if inner < len(self._tokens):
            operator = self._tokens[inner].start
            if _COMPOUND.match(self._source, operator):
                return ("read", "write")
            if self._text(inner) == "=" and self._source[operator + 1 : operator + 2] != "=":
                return ("write",) if inner == after else ("read", "write")
        return ("read",)

    def _emit(self, at: int) -> Iterator[tuple[str, _Name]]:
        yield "events:emit", self._argument(at + 1)

    def _extension(self, at: int) -> Iterator[tuple[str, _Name]]:
        yield "ext", self._member(at + 1) or _Name(None, at + 1)

    def _view(self, at: int) -> Iterator[tuple[str, _Name]]:
        method = self._member(at + 1)
        yield "view:update", self._argument(method.after) if method else _Name(None, at + 1)

    def _crypto(self, at: int) -> Iterator[tuple[str, _Name]]:
        method = self._member(at + 1)
        if method is not None and method.name in _CRYPTO_METHODS:
            yield "crypto", _Name("random", method.after)

    def _member(self, at: int) -> _Name | None:
        """The member at token `at`: `.name`, `?.name`, `["name"]`, `[computed]`; None when there is none."""
        if self._text(at) in (".", "?.") and self._is(at + 1, Kind.WORD):
            return _Name(self._text(at + 1), at + 2)
        opening = at + 1 if self._text(at) == "?." else at
        if self._text(opening) != "[":
            return None
        inner = self._tokens[opening].depth
        closing = opening + 1
        while closing < len(self._tokens) and self._tokens[closing].depth > inner:
            closing += 1
        # The closing bracket still counts as inside.
        return _Name(self._name_between(opening + 1, closing - 1), closing)

    def _argument(self, at: int) -> _Name:
        """The first argument of the call whose parenthesis is token `at`."""
        opening = at + 1 if self._text(at) == "?." else at
        if self._text(opening) != "(":
            return _Name(None, at)
        inner = self._tokens[opening].depth
        end = opening + 1
        while end < len(self._tokens) and self._tokens[end].depth > inner:
            if self._tokens[end].depth == inner + 1 and self._text(end) in (",", ")"):
                break
            end += 1
        return _Name(self._name_between(opening + 1, end), end)

    def _name_between(self, first: int, end: int) -> str | None:
        """The name that the tokens from `first` up to `end` spell, a prefix with `*`, or None."""
        if end == first + 1 and self._is(first, Kind.STRING):
            return _literal(self._text(first))
        if first < end and self._is(first, Kind.TEMPLATE):
            text = self._text(first)
            if end == first + 1:
                return _literal(text)
            beginning = _literal(text.removesuffix("${") + "`")
            return f"{beginning}*" if beginning else None
        # "user." + kind
        if self._is(first, Kind.STRING) and self._text(first + 1) == "+":
            beginning = _literal(self._text(first))
            return f"{beginning}*" if beginning else None
        return None

    def _is(self, at: int, kind: Kind) -> bool:
        return 0 <= at < len(self._tokens) and self._tokens[at].kind is kind


def _literal(text: str) -> str | None:
    """What a string literal without escapes stands for."""
    inner = text[1:-1]
    return inner if inner and "\\" not in inner and "*" not in inner else None
