"""A name service in memory, and ways to call `$ext.http` as the runtime does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nexus_core.extensions.base import ExtensionCall


class Names:
    """Gives each name the addresses it was told, each look-up the next answer; the last one stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self._answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.known = tuple(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The next answer for this name."""
        self.asked.append(host)
        if host not in self._answers:
            raise OSError("no such name")
        answers = self._answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def call_of(method: str, *args: Any, **changes: Any) -> ExtensionCall:
    """One call of an extension method by the handler "hello"."""
    given: dict[str, Any] = {
        "handler": "hello",
        "request_id": "r1",
        "remaining_seconds": 10.0,
    }
    return ExtensionCall(method=method, args=args, **(given | changes))
