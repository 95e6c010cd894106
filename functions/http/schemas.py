"""JSON schemas of the values we send, from their types.

msgspec's own generator is made for input: it would call a member with a default optional, which
we always send, and it cannot render a default of raw JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect

from nexus_core.errors import InternalError


def output_schemas(types: Sequence[type[msgspec.Struct]], prefix: str) -> dict[str, dict[str, Any]]:
    """The schemas of structs and of all they hold, by class name; references are `prefix` and the name."""
    found: dict[str, dict[str, Any]] = {}
    pending: list[inspect.Type] = [inspect.type_info(one) for one in types]
    while pending:
        info = pending.pop()
        if isinstance(info, inspect.StructType) and info.cls.__name__ not in found:
            found[info.cls.__name__] = {
                "type": "object",
                "properties": {f.encode_name: _schema(f.type, prefix, pending) for f in info.fields},
                "required": [field.encode_name for field in info.fields],
            }
    return dict(sorted(found.items()))


def _schema(info: inspect.Type, prefix: str, pending: list[inspect.Type]) -> dict[str, Any]:  # noqa: PLR0911 - one case each
    """The schema of one type; structs met on the way are added to `pending`."""
    match info:
        case inspect.StructType(cls=cls):
            pending.append(info)
            return {"$ref": prefix + cls.__name__}
        case inspect.UnionType(types=types):
            return {"anyOf": [_schema(one, prefix, pending) for one in types]}
        case inspect.VarTupleType(item_type=item):
            return {"type": "array", "items": _schema(item, prefix, pending)}
        case inspect.DictType(value_type=value):
            return {"type": "object", "additionalProperties": _schema(value, prefix, pending)}
        case inspect.LiteralType(values=values):
            return {"enum": list(values)}
        case inspect.EnumType(cls=enum):
            return {"enum": [member.value for member in enum]}
        case inspect.RawType():
            return {}
        case _:
            return {"type": _plain(info)}


def _plain(info: inspect.Type) -> str:
    names: dict[type[inspect.Type], str] = {
        inspect.StrType: "string",
        inspect.IntType: "integer",
        inspect.FloatType: "number",
        inspect.BoolType: "boolean",
        inspect.NoneType: "null",
    }
    try:
        return names[type(info)]
    except KeyError:
        raise InternalError(f"no JSON schema is known for {type(info).__name__}") from None
