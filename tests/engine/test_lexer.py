"""How source text is split into tokens: code told from text, and bounded work on hostile text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.engine.lexer import Kind, tokens


def kinds(source: str) -> list[tuple[Kind, str]]:
    """Each token as its kind and its text."""
    return [(token.kind, source[token.start : token.end]) for token in tokens(source)]


def texts(source: str, kind: Kind) -> list[str]:
    """The texts of the tokens of one kind."""
    return [text for each, text in kinds(source) if each is kind]


@pytest.mark.parametrize(
    "source",
    [
        "a = /x/g",
        "return /x/g",
        "if (a) /x/g.test(b)",
        "{} /x/g",
        "(/x/g)",
        "() => {}\n/x/g",
        "case /x/g:",
        "`${/x/g}`",
        "a ? /x/g : b",
        "!/x/g",
    ],
)
def test_slash_begins_a_regular_expression_where_an_operand_is_awaited(source: str) -> None:
    """A slash after an operator, a keyword or a finished statement begins a regular expression."""
    assert texts(source, Kind.REGEX) == ["/x/g"]


@pytest.mark.parametrize(
    "source",
    [
        "a /x/ g",
        "f() /x/ g",
        "a[0] /x/ g",
        "1 /x/ g",
        "a++ /x/ g",
        "x = {} /x/ g",
        "o.return /x/ g",
        "`a` /x/ g",
    ],
)
def test_slash_divides_after_an_operand(source: str) -> None:
    """A slash after a value divides it."""
    assert texts(source, Kind.REGEX) == []


def test_templates_are_read_with_the_code_inside_them() -> None:
    """The literal pieces of a template are tokens, and so is the code in its substitutions."""
    source = "`a${ {b: `c${d}`} }e`"
    assert [text for _, text in kinds(source)] == ["`a${", "{", "b", ":", "`c${", "d", "}`", "}", "}e`"]


@pytest.mark.parametrize("source", ["'a\nb", '"a\\', "`a", "`a${b", "/* a"])
def test_unfinished_text_is_one_bad_token(source: str) -> None:
    """A string, template or comment without end does not swallow the rest as code."""
    assert any(kind is Kind.BAD for kind, _ in kinds(source)) or kinds(source)[0][0] is Kind.TEMPLATE


def test_comments_and_the_first_line_of_a_program_are_left_out() -> None:
    """Comments and `#!` give no tokens."""
    assert kinds("#!/usr/bin/env node\n// a 'b\n/* c ` */ d") == [(Kind.WORD, "d")]


def test_depth_counts_the_brackets_before_a_token() -> None:
    """`depth` is 0 for what stands outside all brackets."""
    source = "a(b[{c}`${d}`])e"
    assert [(source[t.start : t.end], t.depth) for t in tokens(source) if t.kind is Kind.WORD] == [
        ("a", 0),
        ("b", 1),
        ("c", 3),
        ("d", 3),
        ("e", 0),
    ]


@given(st.text(alphabet="ab'\"`${}()[]/\\*\n\u2028 .=+0é😀#"))
def test_tokens_never_overlap_and_leave_out_only_spaces_and_comments(source: str) -> None:
    """Whatever the text, tokens rise, do not overlap, and nothing but spaces and comments is between them."""
    at = 0
    for token in tokens(source):
        assert at <= token.start < token.end <= len(source)
        gap = source[at : token.start].strip("\ufeff \t\n\u2028")
        assert gap == "" or gap.startswith(("//", "/*", "#!"))
        at = token.end


@pytest.mark.parametrize("unit", ["(/[(", "`${", "/*", "'\\", "a=/", "{", "1e", "/a"])
def test_hostile_text_is_read_in_few_steps(unit: str) -> None:
    """One megabyte that repeats an awkward beginning ends, within the bound on tokens."""
    assert sum(1 for _ in tokens(unit * (2**20 // len(unit)), 50_000)) <= 50_000


def test_a_line_of_slashes_that_open_nothing_is_given_up() -> None:
    """Trying each slash of a long line would be quadratic: after some, the rest is one bad token."""
    found = kinds("(/[" * 1_000 + "\nnext")
    assert len(found) < 500
    assert found[-2][0] is Kind.BAD
    assert found[-1] == (Kind.WORD, "next")
