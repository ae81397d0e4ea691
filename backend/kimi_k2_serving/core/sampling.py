"""Sampling parameters: every accepted name, its type and range, and SGLang's name for it.

`read_parameters` checks the parameters of a client (a JSON object, or tensors) and returns SGLang's sampling
parameters; an unknown name is an error. `fit_to_engine` then checks them against one engine's vocabulary and context.
SGLang does not refuse a number beyond those. Its scheduler dies, and every request with it. Only `max_tokens` is
clamped, to the part of the context that the prompt leaves.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core import limits
from kimi_k2_serving.core.errors import ContextLengthExceeded, InvalidType, InvalidValue, UnknownField, Unsupported
from kimi_k2_serving.core.typed_json import is_whole

# SGLang stores a seed as int64.
SEED_MAXIMUM = 2**63 - 1
TOKENS_MAXIMUM = 2**31 - 1
# SGLang divides logits by the penalty in 32 bits. At 1e-36 and below they become infinite, their softmax becomes NaN,
# and sampling from it ends the scheduler. No useful penalty is below this minimum.
MIN_REPETITION_PENALTY = 0.01
# Token ids have at most 10 digits. Longer keys are refused here, because int() raises its own error above 4,300 digits.
ID_DIGITS = 10
# SGLang reserves one token of the context, and five more of a prompt. A prompt must be shorter than the rest
# (managers/tp_worker.py, managers/utils.py:validate_input_length in 0.5.23).
RESERVED_TOKENS = 7


class Kind(enum.Enum):
    INTEGER = "an integer"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    STRING = "a string"
    STRINGS = "a string or a list of strings"
    IDS = "a list of token ids"
    BIAS = "an object of token id to number"


@dataclass(frozen=True, slots=True)
class Room:
    """The bounds of one engine: token ids are below `vocab_size`, a prompt has at most `prompt_tokens`, and prompt plus
    answer at most `context_length` tokens. `min_p`: whether requests may set this parameter. With
    enable_deterministic_inference it makes the scheduler of SGLang 0.5.23 die of an assertion (layers/sampler.py).
    """

    vocab_size: int
    context_length: int
    prompt_tokens: int
    min_p: bool = True

    @classmethod
    def of_context(cls, vocab_size: int, context_length: int) -> Room:
        """The bounds that follow from the context alone, for use without an engine. A small KV pool lowers the engine's
        own bounds.
        """
        return cls(vocab_size, context_length, max(1, context_length - RESERVED_TOKENS))


@dataclass(frozen=True, slots=True)
class Field:
    """`target` is SGLang's name. A number must lie in [minimum, maximum]; `exclusive` excludes the minimum itself."""

    kind: Kind
    target: str
    minimum: float = -math.inf
    maximum: float = math.inf
    exclusive: bool = False


FIELDS: Mapping[str, Field] = {
    "max_tokens": Field(Kind.INTEGER, "max_new_tokens", 1, TOKENS_MAXIMUM),
    "min_tokens": Field(Kind.INTEGER, "min_new_tokens", 0, TOKENS_MAXIMUM),
    "temperature": Field(Kind.NUMBER, "temperature", 0, 2),
    "top_p": Field(Kind.NUMBER, "top_p", 0, 1, exclusive=True),
    "top_k": Field(Kind.INTEGER, "top_k", -1, TOKENS_MAXIMUM),
    "min_p": Field(Kind.NUMBER, "min_p", 0, 1),
    "frequency_penalty": Field(Kind.NUMBER, "frequency_penalty", -2, 2),
    "presence_penalty": Field(Kind.NUMBER, "presence_penalty", -2, 2),
    "repetition_penalty": Field(Kind.NUMBER, "repetition_penalty", MIN_REPETITION_PENALTY, 2),
    "seed": Field(Kind.INTEGER, "sampling_seed", 0, SEED_MAXIMUM),
    "ignore_eos": Field(Kind.BOOLEAN, "ignore_eos"),
    "stop": Field(Kind.STRINGS, "stop"),
    "stop_token_ids": Field(Kind.IDS, "stop_token_ids"),
    "logit_bias": Field(Kind.BIAS, "logit_bias", -100, 100),
    "skip_special_tokens": Field(Kind.BOOLEAN, "skip_special_tokens"),
    "json_schema": Field(Kind.STRING, "json_schema"),
    "regex": Field(Kind.STRING, "regex"),
    "ebnf": Field(Kind.STRING, "ebnf"),
    "structural_tag": Field(Kind.STRING, "structural_tag"),
}

# Other names that clients use for these parameters.
ALIASES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "min_length": "min_tokens",
    "sampling_seed": "seed",
    "random_seed": "seed",
    "stop_words": "stop",
}
# Sampling parameters of vLLM that this server does not have, each with the only value that it can serve.
USUAL: Mapping[str, Any] = {
    "best_of": 1,
    "detokenize": True,
    "early_stopping": False,
    "include_stop_str_in_output": False,
    "length_penalty": 1.0,
    "spaces_between_special_tokens": True,
    "use_beam_search": False,
}
# No number of a sampling parameter is longer; int() takes very long for very long ones.
NUMBER_CHARACTERS = 32
GRAMMARS = ("json_schema", "regex", "ebnf", "structural_tag")


def read_parameters(
    given: Mapping[str, Any], *, prefix: str = "", known: Collection[str] = FIELDS.keys()
) -> dict[str, Any]:
    """Check a client's parameters and return SGLang's; null values are left out.

    Error messages put `prefix` before a field's name. The error for an unknown name lists `known`. Raises UnknownField,
    InvalidType, InvalidValue, LimitExceeded.
    """
    result: dict[str, Any] = {}
    for name, value in given.items():
        canonical = ALIASES.get(name, name)
        field = FIELDS.get(canonical)
        where = f"{prefix}{name}"
        if field is None:
            raise UnknownField(f"not a sampling parameter; known: {', '.join(sorted(known))}", field=where)
        if value is None:
            continue
        checked = READERS[field.kind](value, field, where)
        if field.target in result and result[field.target] != checked:
            raise InvalidValue("given under two names with different values; send one of them", field=where)
        if checked is not None:
            result[field.target] = checked
    if more := [name for name in GRAMMARS if name in result][1:]:
        raise InvalidValue(f"give one of {', '.join(GRAMMARS)}", field=f"{prefix}{more[0]}")
    if result.get("top_k") == 0:
        # Some APIs write 0 for "off", others -1; SGLang accepts only -1.
        result["top_k"] = -1
    return result


def spelled_out(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with values converted from text, because clients of Triton's vLLM backend send numbers and flags
    as text. Parameters of vLLM that only ask for the usual behaviour are left out. A value that can't be converted
    stays as it is.
    """
    return {
        name: _spelled_out(value, FIELDS.get(ALIASES.get(name, name)))
        for name, value in given.items()
        if name not in USUAL or value != USUAL[name]
    }


def _spelled_out(value: Any, field: Field | None) -> Any:
    if not isinstance(value, str) or field is None or len(value) > NUMBER_CHARACTERS:
        return value
    try:
        match field.kind:
            case Kind.INTEGER:
                return int(value)
            case Kind.NUMBER:
                return float(value)
            case Kind.BOOLEAN:
                return {"true": True, "false": False}.get(value.lower(), value)
    except ValueError:
        pass
    return value


def fit_to_engine(sampling: dict[str, Any], *, prompt_tokens: int, room: Room, field: str) -> None:
    """Check the result of `read_parameters` against one engine. `max_new_tokens` becomes at most the part of the
    context that the prompt leaves, which is also its default.

    Raises ContextLengthExceeded for `field` if the prompt is too long, InvalidValue, and Unsupported for `min_p`.
    """
    if prompt_tokens > room.prompt_tokens:
        raise ContextLengthExceeded(
            f"the prompt has {prompt_tokens} tokens; this engine takes at most {room.prompt_tokens}, because its "
            f"context of {room.context_length} tokens includes the answer; shorten the prompt",
            field=field,
        )
    if sampling.get("min_p") and not room.min_p:
        raise Unsupported("not possible with this engine's enable_deterministic_inference; leave it out", field="min_p")
    for token_id in sampling.get("stop_token_ids", ()):
        _in_vocabulary(token_id, room, "stop_token_ids")
    for token_id in sampling.get("logit_bias", ()):
        _in_vocabulary(int(token_id), room, f"logit_bias.{token_id}")
    left = room.context_length - prompt_tokens
    sampling["max_new_tokens"] = min(int(sampling.get("max_new_tokens", left)), left)
    if int(sampling.get("min_new_tokens", 0)) > sampling["max_new_tokens"]:
        raise InvalidValue(f"must be at most max_tokens, here {sampling['max_new_tokens']}", field="min_tokens")


def _in_vocabulary(token_id: int, room: Room, where: str) -> None:
    if token_id >= room.vocab_size:
        raise InvalidValue(f"{token_id} is not a token id: the vocabulary ends at {room.vocab_size - 1}", field=where)


def _integer(value: Any, field: Field, where: str) -> int:
    if not is_whole(value):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    return int(_in_range(value, field, where))


def _number(value: Any, field: Field, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    return float(_in_range(value, field, where))


def _in_range(value: float, field: Field, where: str) -> float:
    too_low = value < field.minimum or (field.exclusive and value == field.minimum)
    if too_low or value > field.maximum or value != value:
        low = "more than" if field.exclusive else "at least"
        raise InvalidValue(f"must be {low} {field.minimum} and at most {field.maximum}, got {value}", field=where)
    return value


def _boolean(value: Any, field: Field, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    return value


def _string(value: Any, field: Field, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    # A structural tag contains the schemas of all tools.
    bound = limits.JSON_BYTES if field.target == "structural_tag" else limits.SCHEMA_BYTES
    bound.check(len(value.encode()), field=where)
    if not value:
        # SGLang reads an empty string as no grammar, and would not constrain the answer.
        raise InvalidValue("must not be empty; leave it out", field=where)
    return value


def _strings(value: Any, field: Field, where: str) -> list[str] | None:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    # Some clients send an empty string for "none".
    kept = [each for each in values if each]
    limits.STOP_STRINGS.check(len(kept), field=where)
    for each in kept:
        limits.STOP_BYTES.check(len(each.encode()), field=where)
    return kept or None


def _ids(value: Any, field: Field, where: str) -> list[int]:
    if not isinstance(value, list) or not all(map(is_whole, value)):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    limits.STOP_TOKEN_IDS.check(len(value), field=where)
    if any(each < 0 or each > TOKENS_MAXIMUM for each in value):
        raise InvalidValue(f"token ids must be 0 to {TOKENS_MAXIMUM}", field=where)
    return value


def _bias(value: Any, field: Field, where: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    limits.LOGIT_BIAS.check(len(value), field=where)
    result = {}
    for key, bias in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= ID_DIGITS):
            raise InvalidValue("keys must be token ids in decimal", field=where)
        if str(int(key)) in result:
            raise InvalidValue(f"token {int(key)} is given twice", field=where)
        result[str(int(key))] = _number(bias, field, f"{where}.{key}")
    return result


READERS: Mapping[Kind, Callable[[Any, Field, str], Any]] = {
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.STRING: _string,
    Kind.STRINGS: _strings,
    Kind.IDS: _ids,
    Kind.BIAS: _bias,
}
