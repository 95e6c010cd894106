"""Log lines that tests write: read back, and the process's own logging kept from them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def own_logging_kept(*changed: str) -> Iterator[None]:
    """Give the process its own logging back; `changed` are the loggers whose levels were set meanwhile."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in changed}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines_of(stream: io.BytesIO) -> list[dict[str, Any]]:
    """The JSON objects of a stream, one a line."""
    return [json.loads(line) for line in stream.getvalue().split(b"\n")[:-1]]
