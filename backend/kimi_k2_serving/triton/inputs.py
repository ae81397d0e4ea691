"""Reads one request's inputs by name as Python values, from Triton's tensors or from a copy sent to another process.

An absent or empty input is None. Shapes are those of `signatures`; Triton checks dtypes, core checks ranges. Does not
import Triton.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, UnknownField
from kimi_k2_serving.core.limits import ENGINE_CHOICES
from kimi_k2_serving.core.typed_json import is_whole
from kimi_k2_serving.reading.crossing import pack, unpack
from kimi_k2_serving.triton.signatures import SAMPLING, TensorSpec

# The key of a request's parameters among its texts; no tensor has an empty name.
PARAMETERS = ""


class Inputs(Protocol):
    """Strings are bytes that may be invalid UTF-8; `decode_text` refuses those."""

    @property
    def parameters(self) -> str | bytes: ...

    def first(self, name: str) -> Any: ...

    def every(self, name: str) -> list[Any] | None: ...


@dataclass(frozen=True, slots=True)
class Given:
    """A copy of a request's inputs. `texts`: tensors of one string. `rest`: all elements of the other tensors."""

    texts: Mapping[str, bytes]
    rest: Mapping[str, list[Any]]
    parameters: bytes

    @property
    def size(self) -> int:
        """The bytes of all strings, which tell how long reading takes."""
        strings = (each for values in self.rest.values() for each in values if isinstance(each, bytes))
        return len(self.parameters) + sum(map(len, self.texts.values())) + sum(map(len, strings))

    def first(self, name: str) -> Any:
        if name in self.texts:
            return self.texts[name]
        values = self.rest.get(name)
        return values[0] if values else None

    def every(self, name: str) -> list[Any] | None:
        return [self.texts[name]] if name in self.texts else self.rest.get(name)

    def pieces(self) -> tuple[bytes, ...]:
        return pack(self.rest, {**self.texts, PARAMETERS: self.parameters})

    @classmethod
    def of(cls, data: bytes) -> Given:
        rest, texts = unpack(data)
        parameters = texts.pop(PARAMETERS)
        return cls(texts, rest, parameters)


def value(given: Inputs, name: str) -> Any:
    """The first element of an input as a Python str, int, float or bool; None without one."""
    found = given.first(name)
    return decode_text(found, name) if isinstance(found, bytes | str) else found


def flag(given: Inputs, name: str, default: bool) -> bool:
    found = value(given, name)
    return default if found is None else bool(found)


def strings(given: Inputs, name: str) -> list[str] | None:
    values = given.every(name)
    return None if values is None else [decode_text(each, name) for each in values]


def ids(given: Inputs, name: str) -> list[int] | None:
    return given.every(name)


def decode_text(raw: Any, name: str) -> str:
    """Decode a BYTES element. Raises InvalidValue if it is not UTF-8."""
    if isinstance(raw, str):
        return raw
    try:
        return bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidValue("must be UTF-8", field=name) from None


def json_value(given: Inputs, name: str) -> Any:
    """The parsed JSON of the input, or None if it is absent or blank."""
    text = value(given, name)
    return None if text is None or not text.strip() else strict_json.loads(text, field=name)


def sampling(given: Inputs) -> dict[str, Any]:
    """Sampling parameters under the client's names. Tensors override the keys of `sampling_parameters`."""
    own = json_value(given, "sampling_parameters")
    if own is not None and not isinstance(own, dict):
        raise InvalidType("must be a JSON object", field="sampling_parameters")
    result: dict[str, Any] = dict(own or {})
    for words in (strings(given, "bad_words"), result.pop("bad_words", None)):
        if any(words or ()):
            raise InvalidValue("not supported; leave it out or empty", field="bad_words")
    for tensor in SAMPLING:
        if tensor.name == "bad_words" or (found := sampling_value(given, tensor)) is None:
            continue
        if tensor.name == "stop_words":
            result.pop("stop", None)
        result[tensor.name] = found
    return result


def sampling_value(given: Inputs, tensor: TensorSpec) -> Any:
    if tensor.dims == (1,):
        found = value(given, tensor.name)
        # FP32 has 24 bits of precision: 0.6 arrives as 0.60000002384.
        return round(found, 7) if isinstance(found, float) else found
    return strings(given, tensor.name) if tensor.data_type == "TYPE_STRING" else ids(given, tensor.name)


def choices(given: Inputs, key: Any) -> int:
    """The number of answers; `key` is the `n` of `sampling_parameters`, which the tensor overrides."""
    found = value(given, "n")
    found = key if found is None else found
    if found is None:
        return 1
    if not is_whole(found):
        raise InvalidType("must be an integer", field="n")
    if found < 1:
        raise InvalidValue(f"must be at least 1, got {found}", field="n")
    ENGINE_CHOICES.check(int(found), field="n")
    return int(found)


def parameters(given: Inputs) -> dict[str, Any]:
    """The request's parameters, which are not tensors."""
    found = strict_json.loads(given.parameters or "{}", field="parameters")
    assert isinstance(found, dict)
    return found


# The names of W3C's trace context. They arrive as request parameters, from the client or from a forwarded header.
TRACE = ("traceparent", "tracestate")
_TRACE_LENGTHS = [2, 32, 16, 2]


def read_traceparent(given: Inputs) -> str:
    """The request parameter `traceparent`; "" if it is absent or malformed: a trace never makes a request fail."""
    if TRACE[0] not in given.parameters:
        return ""
    found = parameters(given).get(TRACE[0])
    parts = found.split("-") if isinstance(found, str) else []
    if [len(part) for part in parts] != _TRACE_LENGTHS or not set("".join(parts)) <= set("0123456789abcdef"):
        return ""
    return str(found)


def refuse_parameters(given: Inputs, known: Iterable[str], *, taken: Container[str] = ()) -> None:
    """Raise UnknownField for a request parameter that is neither Triton's own, nor a trace's, nor in `taken`. Triton
    also makes a request parameter of each JSON key that names no tensor.
    """
    for name in parameters(given):
        if not name.startswith(("triton_", "sequence_")) and name not in TRACE and name not in taken:
            raise UnknownField(f"not an input of this model; known: {', '.join(known)}", field=name)
