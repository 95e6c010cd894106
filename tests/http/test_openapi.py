"""The OpenAPI document says what the routes do."""

import re
from typing import Any

import httpx
import msgspec
import pytest

from nexus_core.triggers import RESERVED_ROOTS
from tests.http.serving import bearer


def valid(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> bool:  # noqa: PLR0911 - one case each
    """Whether a value fits a schema, as far as the schemas of this document go."""
    if "$ref" in schema:
        found: Any = document
        for piece in schema["$ref"].removeprefix("#/").split("/"):
            found = found[piece]
        return valid(value, found, document)
    if "anyOf" in schema:
        return any(valid(value, one, document) for one in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None),
        "number": (int, float),
    }  # fmt: skip
    if "type" in schema and (
        not isinstance(value, kinds[schema["type"]])
        or isinstance(value, bool) != (schema["type"] == "boolean")
    ):
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties", {})
        return set(schema.get("required", ())) <= set(value) and all(
            valid(item, properties.get(key, others if isinstance(others, dict) else {}), document)
            and (not properties or key in properties)
            for key, item in value.items()
        )
    if isinstance(value, list):
        return all(valid(item, schema.get("items", {}), document) for item in value)
    return True


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    """The document of an application without tokens."""
    answer = await client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def references(value: Any) -> set[str]:
    """Every `$ref` below a value."""
    return set(re.findall(r'"\$ref":"([^"]+)"', msgspec.json.encode(value).decode()))


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    """No schema is named that is not there, and no path parameter is undeclared."""
    schemas = document["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in references(document)} <= set(schemas)
    for path, item in document["paths"].items():
        for operation in item.values():
            declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path))
            assert operation["responses"]
            assert operation["summary"]


def test_every_route_is_in_it(document: dict[str, Any]) -> None:
    """The reserved routes that do something, and every handler's own, are documented."""
    assert {"/invoke/{handler}", "/handlers", "/metrics", "/docs", "/pages/{id}", "/responses"} <= set(
        document["paths"]
    )
    assert document["paths"]["/mirror"]["put"]["requestBody"]
    roots = {path.split("/")[1] for path in document["paths"]} & RESERVED_ROOTS
    assert roots == {"invoke", "handlers", "sessions", "health", "metrics", "docs", "openapi.json"}


@pytest.mark.parametrize(
    ("method", "path", "route", "content"),
    [
        ("POST", "/invoke/hello", "/invoke/{handler}", b"{}"),
        ("POST", "/invoke/boom", "/invoke/{handler}", b"{}"),
        ("POST", "/invoke/nobody", "/invoke/{handler}", b"{}"),
        ("POST", "/invoke/broken", "/invoke/{handler}", b"{}"),
        ("POST", "/invoke/counter?session=o", "/invoke/{handler}", b"{}"),
        ("POST", "/invoke/hello", "/invoke/{handler}", b"{"),
        ("POST", "/invoke/small", "/invoke/{handler}", b"[" * 100),
        ("GET", "/handlers", "/handlers", b""),
        ("GET", "/handlers/pages", "/handlers/{name}", b""),
        ("GET", "/handlers/nobody", "/handlers/{name}", b""),
        ("GET", "/sessions/o/state", "/sessions/{session}/state", b""),
        ("GET", "/health", "/health", b""),
        ("GET", "/health/live", "/health/live", b""),
        ("GET", "/health/ready", "/health/ready", b""),
    ],
)
async def test_answers_fit_the_document(
    client: httpx.AsyncClient, document: dict[str, Any], method: str, path: str, route: str, content: bytes
) -> None:
    """Real answers have a documented status, media type and form."""
    answer = await client.request(method, path, content=content)
    responses = document["paths"][route][method.lower()]["responses"]
    assert str(answer.status_code) in responses
    schema = responses[str(answer.status_code)]["content"][answer.headers["content-type"]]["schema"]
    assert valid(answer.json(), schema, document), answer.text
    assert not valid({"unknown": 1}, schema, document)


async def test_tokens_are_documented_and_hide_routes(guarded: httpx.AsyncClient) -> None:
    """With tokens in force every guarded operation says so; handlers' routes are shown to readers only."""
    document = (await guarded.get("/openapi.json")).json()
    assert "/pages/{id}" not in document["paths"]
    assert document["paths"]["/invoke/{handler}"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/health/live"]["get"]
    full = (await guarded.get("/openapi.json", headers=bearer("read"))).json()
    assert full["paths"]["/pages/{id}"]["get"]["security"] == [{"token": []}]
    assert (await guarded.get("/openapi.json", headers=bearer("admin"))).status_code == 403
