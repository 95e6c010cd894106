"""The errors and their one table: each code has an answer, and each class a code."""

from __future__ import annotations

import inspect

import pytest

from nexus_core import errors
from nexus_core.errors import (
    ERROR_TABLE,
    ErrorCode,
    GuestError,
    LimitBreach,
    LimitError,
    NexusError,
    ResourceLimitExceeded,
)

STATUSES = {
    "INVALID_REQUEST": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "HANDLER_NOT_FOUND": 404,
    "SUSPENSION_NOT_FOUND": 404,
    "SUSPENSION_CONFLICT": 409,
    "STATE_CONFLICT": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "INVALID_HANDLER": 422,
    "COMPILATION_ERROR": 422,
    "EXECUTION_ERROR": 500,
    "MEMORY_LIMIT": 500,
    "STACK_OVERFLOW": 500,
    "RESOURCE_LIMIT": 500,
    "INTERNAL_ERROR": 500,
    "POOL_EXHAUSTED": 503,
    "TIMEOUT": 504,
}
RETRYABLE = {"STATE_CONFLICT", "INTERNAL_ERROR", "POOL_EXHAUSTED", "TIMEOUT"}
CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, NexusError) and found not in (NexusError, LimitError)
]


def test_the_table_answers_every_code() -> None:
    """Each code has the HTTP status of the design, and says whether a retry can help."""
    assert {code.value: answer.http_status for code, answer in ERROR_TABLE.items()} == STATUSES
    assert {code.value for code, answer in ERROR_TABLE.items() if answer.retryable} == RETRYABLE
    assert set(ERROR_TABLE) == set(ErrorCode)


def test_the_table_cannot_be_changed() -> None:
    """Nobody answers an error differently at run time."""
    with pytest.raises(TypeError):
        ERROR_TABLE[ErrorCode.TIMEOUT] = ERROR_TABLE[ErrorCode.INTERNAL_ERROR]  # type: ignore[index]


def test_each_code_has_one_class() -> None:
    """What is raised and what is answered name each other."""
    assert sorted(found.code for found in CLASSES) == sorted(ErrorCode)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_each_error_reads_its_answer_from_the_table(kind: type[NexusError]) -> None:
    """Message, status and retry are the same wherever the error turns up."""
    raised = kind("what went wrong")
    assert (str(raised), raised.message) == ("what went wrong", "what went wrong")
    assert (raised.http_status, raised.retryable) == ERROR_TABLE[kind.code]


def test_a_limit_error_carries_its_breach() -> None:
    """The limit's name, value and use travel with the error; they may be unknown."""
    breach = LimitBreach("max_events", 3, 4)
    assert ResourceLimitExceeded("too many", breach).breach == breach
    assert ResourceLimitExceeded("too many").breach is None


def test_a_guest_error_names_itself_an_error_when_it_has_no_name() -> None:
    """What a handler throws need not be an error at all."""
    thrown = GuestError("7")
    assert (thrown.name, thrown.stack, thrown.location, thrown.snippet) == ("Error", None, None, None)
