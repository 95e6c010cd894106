"""Which HTTP statuses make a sender of events deliver again, on both sides of a delivery.

Source: the retries of Knative Eventing's data plane contract, which other brokers share.
"""

from __future__ import annotations

from typing import Final

_PASSING: Final = frozenset({404, 408, 409, 429})


def is_redelivered(status: int) -> bool:
    """Whether an event that was answered with `status` is delivered again."""
    return status in _PASSING or status >= 500
