"""Direct invocations: `{"handler": NAME, "event": ..., "session": ..., "capabilities": [...]}`.

IAM has decided who may invoke the function, so they may call every handler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from functions.aws_lambda.calls import Calls
from functions.http.answers import CallAnswer, shown
from functions.http.envelope import asked_capabilities
from nexus_core.errors import InvalidRequest
from nexus_core.stores.bounds import check_session


class DirectInvocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a direct invocation says. `capabilities` narrow the handler's own for this call."""

    handler: str
    event: Any = None
    session: str | None = None
    capabilities: list[str] | None = None


async def answer_direct(event: Mapping[str, Any], calls: Calls) -> CallAnswer:
    """The result of the call, as `POST /invoke/{handler}` shows it; raises `InvalidRequest`."""
    try:
        asked = msgspec.convert(event, DirectInvocation)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the direct invocation is malformed: {error}") from None
    if asked.session is not None:
        check_session(asked.session)
    try:
        content = msgspec.json.encode(asked.event)
    except (UnicodeEncodeError, RecursionError):
        raise InvalidRequest("the event holds text that is no Unicode, or nests too deep") from None
    capabilities = None
    if asked.capabilities is not None:
        capabilities = asked_capabilities(asked.capabilities, "capabilities")
    result = await calls.run(
        asked.handler,
        content,
        request_id=calls.request_id,
        session=asked.session,
        capabilities=capabilities,
    )
    return shown(result)
