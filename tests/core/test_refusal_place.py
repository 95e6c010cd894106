"""Where a refused operation is shown to the author."""

from __future__ import annotations

from nexus_core.errors import ErrorCode
from nexus_core.runtime import Runtime
from tests.core.runtimes import call, error, handler


async def test_a_refused_write_is_shown_at_its_line(runtime: Runtime) -> None:
    """An uncaught refusal points at the line and column that tried, and names the missing token."""
    code = "export default function () {\n  const value = 1;\n  $state.secret = value;\n}\n"
    refused = error(await runtime.execute_source(handler(code), call()))
    assert refused.code is ErrorCode.PERMISSION_DENIED
    assert "state:write:secret" in refused.message
    assert refused.location is not None
    assert (refused.location.file, refused.location.line) == ("index.js", 3)
    assert "$state.secret = value" in (refused.snippet or "")
