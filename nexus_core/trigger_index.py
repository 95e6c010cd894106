"""Which handler an event is for, by the names of where it came from: a queue's, an event type's, a rule's."""

from __future__ import annotations

from collections.abc import Sequence

from nexus_core.errors import HandlerNotFound
from nexus_core.handlers import HandlerRegistry, Trigger

_MOST_LISTED = 20


class TriggerIndex:
    """The triggers of one kind (not `http`) as the registry has them now: the next event sees a reload."""

    def __init__(self, registry: HandlerRegistry, kind: str) -> None:
        self.kind = kind
        self._registry = registry
        self._seen: Sequence[tuple[Trigger, str]] | None = None
        self._names: dict[str, str] = {}
        self._beginnings: list[tuple[str, str]] = []

    def handler_for(self, names: Sequence[str]) -> str:
        """The handler whose pattern fits one of `names`, all of one source: `("arn:...:orders", "orders")`.

        Of several patterns the longest wins, and a whole name before a beginning as long. Raises
        `HandlerNotFound` that lists the patterns there are.
        """
        self._follow()
        found = [(len(name), True, self._names[name]) for name in names if name in self._names]
        found += [
            (len(beginning), False, handler)
            for beginning, handler in self._beginnings
            if any(name.startswith(beginning) for name in names)
        ]
        if not found:
            raise self._nothing_for(names[-1])
        return max(found)[2]

    def _follow(self) -> None:
        triggers = self._registry.triggers(self.kind)
        # The registry swaps its whole table, so another object is the sign of a reload.
        if triggers is self._seen:
            return
        patterns = {trigger.pattern: handler for trigger, handler in triggers}
        self._names = {name: handler for name, handler in patterns.items() if not name.endswith("*")}
        self._beginnings = [(name[:-1], handler) for name, handler in patterns.items() if name.endswith("*")]
        self._seen = triggers

    def _nothing_for(self, name: str) -> HandlerNotFound:
        triggers = self._registry.triggers(self.kind)
        known = sorted(f"{trigger.pattern!r} (handler {handler})" for trigger, handler in triggers)
        more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
        listing = f"the {self.kind} triggers are {', '.join(known[:_MOST_LISTED])}{more}"
        if not known:
            listing = f"no handler has a trigger of kind {self.kind}"
        return HandlerNotFound(f"no handler is triggered by {self.kind} {name[:200]!r}; {listing}")
