"""Typed access to decoded JSON: each function returns a value of its type or raises an error that names its path.

Knows nothing of chats. Error messages never repeat the client's text. A path consists of our own names and indices;
only an unknown key appears in it, cut to 64 characters.
"""

from __future__ import annotations

from collections.abc import Collection

from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField, UnknownField
from kimi_k2_serving.core.messages import Json

Object = dict[str, Json]
# No double of this size or above has a fraction.
_BEYOND = 2.0**63


def as_object(value: Json, path: str) -> Object:
    if not isinstance(value, dict):
        raise InvalidType("must be an object", field=path)
    return value


def as_list(value: Json, path: str) -> list[Json]:
    if not isinstance(value, list):
        raise InvalidType("must be an array", field=path)
    return value


def as_string(value: Json, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidType("must be a string", field=path)
    return value


def as_flag(value: Json, path: str, *, default: bool) -> bool:
    """True or false; null means the default."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidType("must be true or false", field=path)
    return value


def is_whole(value: Json) -> bool:
    """Whether `value` is an integer. An integer beyond 64 bits, which `strict_json` reads as a double, counts as one.
    So it is refused because of its field's range, not because of its type.
    """
    return type(value) is int or (type(value) is float and abs(value) >= _BEYOND)


def required(parent: Object, key: str, path: str) -> Json:
    """`parent[key]`. The key must be present; its value may be null."""
    if key not in parent:
        raise MissingField("is required", field=f"{path}.{key}" if path else key)
    return parent[key]


def one_of(value: Json, choices: Collection[str], path: str) -> str:
    text = as_string(value, path)
    if text not in choices:
        raise InvalidValue(f"must be one of {', '.join(choices)}", field=path)
    return text


def closed(source: Object, path: str, known: Collection[str]) -> None:
    """Raise UnknownField for a key outside `known`, unless its value is null: no setting may be ignored silently."""
    for name, value in source.items():
        if name not in known and value is not None:
            raise UnknownField("is not a field of this object; remove it", field=f"{path}.{name[:64]}")
