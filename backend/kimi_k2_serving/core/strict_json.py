"""Decodes JSON from a client, or raises one error that names its field.

Promises: bounds on bytes, depth and number of values are checked before anything is decoded. The result has no NaN, no
infinity, no integer beyond 64 bits and no lone surrogate; a repeated key in an object is refused. In the text such an
integer or surrogate may occur, because a tool's output may have one and no client can take it back. They are read as
JavaScript reads them: as the nearest double, and as U+FFFD. Linear in the document. Does not know what the document
means.
"""

from __future__ import annotations

import json
from array import array
from itertools import accumulate
from typing import NoReturn, cast

from kimi_k2_serving.core.errors import InvalidJson
from kimi_k2_serving.core.limits import JSON_BYTES, JSON_DEPTH, JSON_NODES
from kimi_k2_serving.core.messages import Json

_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1
# A 64-bit integer has at most 20 characters. Longer ones become doubles, because int() takes quadratic time.
_INTEGER_CHARACTERS = 20

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
# As signed bytes: +1 opens a level, -1 closes one.
_STEPS = bytes.maketrans(b"[{]}", bytes([1, 1, 255, 255]))


def loads(text: str | bytes, *, field: str) -> Json:
    """Decode one JSON document; raises InvalidJson or LimitExceeded with `field` as its path."""
    JSON_BYTES.check(len(text), field=field)
    data, decoded = _both_forms(text, field)
    JSON_BYTES.check(len(data), field=field)
    _check_shape(data, field)
    try:
        value = cast(Json, _DECODER.decode(decoded))
    except json.JSONDecodeError as error:
        raise InvalidJson(f"not JSON, at character {error.pos} of {len(decoded)}", field=field) from None
    except _Refused as refused:
        raise InvalidJson(refused.reason, field=field) from None
    # _both_forms refuses raw surrogates, so a surrogate can only come from an escape.
    if b"\\ud" in data or b"\\uD" in data:
        return _without_surrogates(value)
    return value


def _both_forms(text: str | bytes, field: str) -> tuple[bytes, str]:
    try:
        return (text.encode(), text) if isinstance(text, str) else (text, text.decode())
    except UnicodeError:
        raise InvalidJson("not UTF-8; encode the document as UTF-8", field=field) from None


def _check_shape(data: bytes, field: str) -> None:
    """Check depth and number of values without decoding.

    A value is what follows an opening bracket or a comma, so an empty container counts as two. The counts may be wrong
    from a syntax error on, but the decoder stops there.
    """
    # Without escapes, every quote begins or ends a string. So pairs of backslashes are removed first. A backslash that
    # is left then escapes the quote behind it.
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # A value has at most two strings: its key and itself. With more quotes the split below could take much memory.
    if (quotes := data.count(b'"')) > 4 * JSON_NODES.value:
        JSON_NODES.check(quotes // 4, field=field)
    outside = b"".join(data.split(b'"')[::2])
    JSON_NODES.check(1 + outside.count(b",") + outside.count(b"[") + outside.count(b"{"), field=field)
    steps = array("b", outside.translate(_STEPS, _NOT_BRACKETS))
    JSON_DEPTH.check(max(accumulate(steps), default=0), field=field)


def _without_surrogates(value: Json) -> Json:
    """`value` with U+FFFD for each half of a surrogate pair. If that makes two keys equal, the last one counts."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        mended = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return cast(Json, json.loads(mended))
    return value


class _Refused(Exception):
    """Raised in the decoder's hooks for JSON that the parser accepts and this module refuses."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _constant(_: str) -> NoReturn:
    raise _Refused("NaN and Infinity are not JSON")


def _integer(digits: str) -> int | float:
    if len(digits) <= _INTEGER_CHARACTERS and _INTEGER_MIN <= (value := int(digits)) <= _INTEGER_MAX:
        return value
    return _float(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise _Refused("a number is too large for a double; send it as a string")
    return value


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Refused("an object has the same key twice")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float)
