"""Finding the handler of an event by the names of its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.errors import HandlerNotFound
from nexus_core.handlers import HandlerRegistry
from nexus_core.limits import ResourceLimits
from nexus_core.trigger_index import TriggerIndex

_ARN = "arn:aws:sqs:eu-west-1:123456789012:orders"


def registry_of(folder: Path, patterns: dict[str, str], kind: str = "sqs") -> HandlerRegistry:
    """Handlers by name, each with one trigger."""
    for name, pattern in patterns.items():
        (folder / f"{name}.js").write_text("export default () => 1")
        (folder / f"{name}.toml").write_text(f"[[triggers]]\n{kind} = {pattern!r}\n")
    return HandlerRegistry(folder, ResourceLimits())


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        ({"a": "orders"}, "a"),
        ({"a": _ARN}, "a"),
        ({"a": "ord*"}, "a"),
        ({"a": "*"}, "a"),
        ({"a": "orders", "b": _ARN}, "b"),
        ({"a": "orders", "b": "orders*"}, "a"),
        ({"a": "o*", "b": "ord*", "c": "*"}, "b"),
    ],
)
def test_the_closest_pattern_wins(tmp_path: Path, patterns: dict[str, str], wanted: str) -> None:
    """Of all patterns that fit, the longest names the handler, and a whole name goes before a beginning."""
    index = TriggerIndex(registry_of(tmp_path, patterns), "sqs")
    assert index.handler_for([_ARN, "orders"]) == wanted


@pytest.mark.parametrize("pattern", ["order", "orders.fifo", "arn:aws:sqs:eu-west-1:1:orders", "x*"])
def test_what_does_not_fit_lists_what_would(tmp_path: Path, pattern: str) -> None:
    """An event no pattern fits is refused with the patterns and handlers there are."""
    index = TriggerIndex(registry_of(tmp_path, {"a": pattern}), "sqs")
    with pytest.raises(HandlerNotFound) as caught:
        index.handler_for([_ARN, "orders"])
    assert caught.value.message == (
        f"no handler is triggered by sqs 'orders'; the sqs triggers are {pattern!r} (handler a)"
    )


def test_a_kind_without_triggers_says_so(tmp_path: Path) -> None:
    """Triggers of another kind do not count."""
    index = TriggerIndex(registry_of(tmp_path, {"a": "orders"}), "sns")
    with pytest.raises(HandlerNotFound, match="no handler has a trigger of kind sns"):
        index.handler_for(["orders"])


def test_the_list_of_what_would_match_is_bounded(tmp_path: Path) -> None:
    """Hundreds of triggers do not make a message of hundreds."""
    index = TriggerIndex(registry_of(tmp_path, {f"h{n}": f"q{n}" for n in range(25)}), "sqs")
    with pytest.raises(HandlerNotFound, match=r"and 5 more$") as caught:
        index.handler_for(["other"])
    assert caught.value.message.count("(handler") == 20


def test_a_reload_shows_at_the_next_event(tmp_path: Path) -> None:
    """A trigger that appears is followed without a new index."""
    registry = registry_of(tmp_path, {"a": "orders*"})
    index = TriggerIndex(registry, "sqs")
    assert index.handler_for(["orders"]) == "a"
    registry_of(tmp_path, {"b": "orders"})
    registry.refresh()
    assert index.handler_for(["orders"]) == "b"


@given(name=st.text("ab/*", min_size=1, max_size=6), patterns=st.sets(st.text("ab/", max_size=4), max_size=5))
def test_a_beginning_fits_exactly_the_names_that_start_with_it(
    tmp_path_factory: pytest.TempPathFactory, name: str, patterns: set[str]
) -> None:
    """For any patterns that end in a star, the handler is the one of the longest that starts the name."""
    folder = tmp_path_factory.mktemp("handlers")
    handlers = {f"h{number}": f"{text}*" for number, text in enumerate(sorted(patterns))}
    index = TriggerIndex(registry_of(folder, handlers, "s3"), "s3")
    fitting = [text for text in patterns if name.startswith(text)]
    if not fitting:
        with pytest.raises(HandlerNotFound):
            index.handler_for([name])
    else:
        assert handlers[index.handler_for([name])] == f"{max(fitting, key=len)}*"
