"""Hostile values: what no route takes, and, by a body's JSON schema, what this one must not take."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

DEEP = 10_000
LONG = "x" * 100_000

Schema = dict[str, Any]


class Raw(NamedTuple):
    """A body as it is, and the codes that may answer it."""

    what: str
    body: bytes
    codes: frozenset[str]


_MALFORMED = frozenset({"malformed"})
_EITHER = frozenset({"malformed", "invalid"})

# No route takes any of these, whatever its fields are called.
RAW = [
    Raw("not JSON", b"hello", _MALFORMED),
    Raw("cut JSON", b'{"content": "a', _EITHER),
    Raw("two values", b"{}{}", _EITHER),
    Raw("a comma too many", b'{"content": "a",}', _EITHER),
    Raw("single quotes", b"{'content': 'a'}", _MALFORMED),
    Raw("only blanks", b"  \r\n ", _MALFORMED),
    Raw("a byte order mark", b"\xef\xbb\xbf{}", _MALFORMED),
    Raw("UTF-16", json.dumps({"content": "a"}).encode("utf-16"), _MALFORMED),
    Raw("bad UTF-8 in a value", b'{"content": "\xff\xfe"}', _EITHER),
    Raw("bad UTF-8 in a name", b'{"\xc3\x28": 1}', _EITHER),
    Raw("overlong UTF-8", b'{"content": "\xc0\xaf"}', _EITHER),
    Raw("a surrogate in UTF-8", b'{"content": "\xed\xa0\x80"}', _EITHER),
    Raw("a raw NUL", b'{"content": "a\x00b"}', _EITHER),
    Raw("half a surrogate pair", b'{"content": "\\ud800"}', _EITHER),
    Raw("a surrogate pair in the wrong order", b'{"content": "\\udc00\\ud800"}', _EITHER),
    Raw("NaN", b'{"content": NaN}', _EITHER),
    Raw("Infinity", b'{"content": -Infinity}', _EITHER),
    Raw("a number that is no JSON", b'{"content": 0x10}', _EITHER),
    Raw("null", b"null", _EITHER),
    Raw("a list", b"[]", _EITHER),
    Raw("a text", b'"content"', _EITHER),
    Raw("a number", b"1" * 5_000, _EITHER),
    Raw("deep lists", b"[" * DEEP + b"]" * DEEP, _EITHER),
    Raw("deep objects", b'{"content":' * DEEP + b"1" + b"}" * DEEP, _EITHER),
    Raw("deep in an unknown field", b'{"zz":' + b"[" * DEEP + b"]" * DEEP + b"}", _EITHER),
    Raw("deep and open", b"[" * DEEP, _EITHER),
    Raw("an unknown field", b'{"zz": 1}', _EITHER),
    Raw("a field of an empty name", b'{"": 1}', _EITHER),
    Raw("a field of a NUL name", b'{"a\\u0000": 1}', _EITHER),
    Raw("__class__", b'{"__class__": {"__init__": {}}}', _EITHER),
    Raw("many unknown fields", json.dumps({f"f{i}": i for i in range(5_000)}).encode(), _EITHER),
]

_POOL: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 10**30, -(10**400), 2**31, 2**63),
    *("", "x", "\x00", "a\x00b", "\U0001f4a9" * 300, LONG),
    *([], [[]], [None], [1], ["\x00"], ["x"] * 1_000, {}, {"a": {}}, {"\x00": None}),
]


def wrong_fields(schema: Schema, components: Schema, good: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """For every field of a body its name and a value that the schema forbids."""
    for name, field in resolve(schema, components)["properties"].items():
        for value in _POOL:
            if not permits(field, components, value):
                yield name, value
    for name in resolve(schema, components).get("required", ()):
        assert name in good


def some_body(schema: Schema, components: Schema, good: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A body by chance: of every field nothing, what is good, what the schema permits, or what it forbids."""
    body: dict[str, Any] = {}
    for name, field in resolve(schema, components)["properties"].items():
        match chance.randrange(6):
            case 0:
                pass
            case 1:
                body[name] = chance.choice(_POOL)
            case 2 | 3:
                body[name] = chance.choice([value for value in _POOL if permits(field, components, value)] or [None])
            case _ if name in good:
                body[name] = good[name]
    return body


def required(schema: Schema, components: Schema) -> list[str]:
    return list(resolve(schema, components).get("required", ()))


def resolve(schema: Schema, components: Schema) -> Schema:
    while "$ref" in schema:
        schema = components[schema["$ref"].rpartition("/")[2]]
    return schema


_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


def permits(schema: Schema, components: Schema, value: Any) -> bool:
    """Whether a value has a form that the schema allows: as much of JSON Schema as the document uses."""
    schema = resolve(schema, components)
    if any(
        not any(permits(choice, components, value) for choice in schema[word])
        for word in ("anyOf", "oneOf")
        if word in schema
    ):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    kind = schema.get("type")
    if kind is not None and not _is(kind, value):
        return False
    if isinstance(value, str):
        return _permits_text(schema, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    if isinstance(value, list):
        inside = all(permits(schema.get("items", {}), components, item) for item in value)
        return inside and schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
    if isinstance(value, dict):
        return all(permits(schema.get("additionalProperties", {}) or {}, components, item) for item in value.values())
    return True


def _is(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _permits_text(schema: Schema, value: str) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    return "pattern" not in schema or re.search(schema["pattern"], value) is not None


# What a `send` must not be though its schema allows it: fields of a good one that are changed, the code, the param.
BEYOND_SEND: list[tuple[dict[str, Any], str, str]] = [
    *(({"content": content}, "invalid", "content") for content in ("", " \n", "a\x00b")),
    *(({"message_id": given}, "invalid", "message_id") for given in ("x", "", "0" * 36, "\U0001f4a9" * 36)),
    ({"message_id": "ffffffff-ffff-7fff-bfff-ffffffffffff"}, "id_out_of_order", "message_id"),
    *(({"parent_id": given}, "not_found", "parent_id") for given in ("x", "", "gen_" + "A" * 43)),
    ({"files": ["x"]}, "invalid", "files"),
    *(({"model": given}, "invalid", "model") for given in ("no-such-model", "", "\U0001f4a9")),
    *(({"params": {name: 1}}, "invalid", "params") for name in ("zz", "", "__class__", "Temperature", "\x00")),
]
BEYOND_SEND += [
    ({"params": {name: value}}, "invalid", f"params.{name}")
    for name, values in {
        "temperature": (-1, 2.1, "1", None, True, 10**400, [], {}),
        "max_tokens": (0, -1, 1.5, 2**31, 10**400, "1", True),
        "stop": ([], ["a"] * 5, [1], {}, None, "x" * 257, [["a"]]),
        "seed": (2**31, 1.5, "x", True),
    }.items()
    for value in values
]

# Around the depth at which readers and writers of JSON give up, the one before the other.
DEPTHS = [1, 10, 100, 500, *range(800, 1020, 3), 2_000, 5_000]
