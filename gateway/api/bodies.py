"""Request bodies: JSON of at most 256 KiB, decoded strictly; what is wrong is told with the field's name."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec
from litestar import Request
from litestar.dto import AbstractDTO
from litestar.dto.data_structures import DTOFieldDefinition
from litestar.exceptions import InternalServerException
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from core.errors import ParleyError

MAX_BODY_BYTES: Final = 256 * 1024
BODY_S: Final = 30.0

_PATH: Final = re.compile(r" - at `\$\.(?P<path>[^`]*)`$")
_FIELD: Final = re.compile(r"field `(?P<name>[^`]*)`")

# PostgreSQL's text holds every character but this one.
NO_NUL: Final = "^[^\\x00]*$"
Line = Annotated[str, msgspec.Meta(max_length=200, pattern=NO_NUL)]
Secret = Annotated[str, msgspec.Meta(max_length=1024)]
Identifier = Annotated[str, msgspec.Meta(max_length=128, pattern=NO_NUL)]

T = TypeVar("T")


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all bodies: an unknown field is an error that names it."""


class BoundedRequest(Request[Any, Any, Any]):
    """A body is JSON by its content type, or empty, which stands for an empty object."""

    async def body(self) -> bytes:
        """Raises `malformed` where it does not arrive within 30 s, or its sender leaves, `unsupported_media_type`."""
        try:
            async with asyncio.timeout(BODY_S):
                raw = await super().body()
        except TimeoutError as error:
            raise ParleyError("malformed", f"The body did not arrive within {BODY_S:.0f} s.") from error
        except InternalServerException as error:
            # Litestar's word for a body that breaks off; it is the client's doing, not ours.
            raise ParleyError("malformed", "The client left before its request was complete.") from error
        if not raw:
            return b"{}"
        if self.content_type[0] != "application/json":
            # A form of a foreign page cannot send this type without the browser asking us first.
            raise ParleyError("unsupported_media_type", "The body must be JSON, sent as application/json.")
        return raw


class StrictJSON(AbstractDTO[T], Generic[T]):
    """Decodes a body as exactly `T`, without coercion, and shows `T` in the OpenAPI document."""

    def decode_bytes(self, value: bytes) -> Any:
        return decode(value, self.model_type)

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: Any = None
    ) -> None:
        """Nothing is generated: msgspec decodes the type itself."""

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any
    ) -> Reference | Schema:
        schema: Reference | Schema = schema_creator.for_field_definition(
            FieldDefinition.from_annotation(cls.model_type)
        )
        return schema

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Any:
        fields: tuple[DTOFieldDefinition, ...] = ()
        yield from fields

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        return False


def decode(raw: bytes, kind: type[T]) -> T:
    """JSON as `kind`. Raises `malformed` (not JSON, not UTF-8, nested too deeply) or `invalid` with the field."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        message, param = _explain(str(error))
        raise ParleyError("invalid", message, param=param) from error
    except RecursionError as error:
        raise ParleyError("malformed", "The body is nested too deeply.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ParleyError("malformed", f"The body is not valid JSON in UTF-8: {error}.") from error


def _explain(problem: str) -> tuple[str, str | None]:
    """msgspec's words as a sentence, and the path of the field that they are about."""
    path = _PATH.search(problem)
    field = _FIELD.search(problem)
    names = [path["path"]] if path else []
    if field:
        names.append(field["name"])
    words = _PATH.sub("", problem).replace("`", "'")
    param = ".".join(names)[:200] or None
    return (f"{param}: {words}." if param and not field else f"{words}."), param
