"""Sampling parameters: every accepted name, its type and range, and the name SGLang has for it.

`read_parameters` checks a mapping as a client sent it (a JSON object, or tensors) and returns SGLang's sampling
parameters. It refuses what it does not know by name. `fit_to_engine` then holds them to what one engine has: its
vocabulary and its context. A number beyond those does not make SGLang refuse the request: it kills the scheduler, for
everybody. Nothing is clamped but `max_tokens`, to what the prompt leaves of the context.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core import limits
from kimi_k2_serving.core.errors import ContextLengthExceeded, InvalidType, InvalidValue, UnknownField, Unsupported

# Bounds of a 64-bit seed as SGLang carries it (int64).
SEED_MAXIMUM = 2**63 - 1
TOKENS_MAXIMUM = 2**31 - 1
# SGLang divides logits by it in 32 bits. From 1e-36 down they become infinite, and drawing from the NaN of their
# softmax ends its scheduler. Nobody has a use for less than this.
LEAST_REPETITION_PENALTY = 0.01
# No token id has more digits; int() itself refuses more than 4,300 with an error of its own.
ID_DIGITS = 10
# SGLang keeps one place of the context for itself, five more of a prompt, and takes none that reaches that bound
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
    """What one engine has room for: ids below `vocab_size`; prompts of at most `prompt_tokens`; prompt and answer
    together in `context_length` tokens. `min_p`: whether it may be asked for at all. With
    enable_deterministic_inference SGLang 0.5.23's scheduler dies of an assertion (layers/sampler.py) if it is.
    """

    vocab_size: int
    context_length: int
    prompt_tokens: int
    min_p: bool = True

    @classmethod
    def of_context(cls, vocab_size: int, context_length: int) -> Room:
        """As SGLang will have it, for those who can't ask it. Its KV pool may make it less."""
        return cls(vocab_size, context_length, max(1, context_length - RESERVED_TOKENS))


@dataclass(frozen=True, slots=True)
class Field:
    """`target` is SGLang's name; a number must lie in [minimum, maximum]; `exclusive` leaves the minimum itself out."""

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
    "repetition_penalty": Field(Kind.NUMBER, "repetition_penalty", LEAST_REPETITION_PENALTY, 2),
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

# Other clients' names for the same thing.
ALIASES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "min_length": "min_tokens",
    "sampling_seed": "seed",
    "random_seed": "seed",
    "stop_words": "stop",
}
GRAMMARS = ("json_schema", "regex", "ebnf", "structural_tag")


def read_parameters(given: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """SGLang's sampling parameters for what a client gave; null values are left out.

    `prefix` stands before a field's name in messages. Raises UnknownField, InvalidType, InvalidValue, LimitExceeded.
    """
    result: dict[str, Any] = {}
    for name, value in given.items():
        canonical = ALIASES.get(name, name)
        field = FIELDS.get(canonical)
        where = f"{prefix}{name}"
        if field is None:
            raise UnknownField(f"not a sampling parameter; known: {', '.join(sorted(FIELDS))}", field=where)
        if value is None:
            continue
        checked = READERS[field.kind](value, field, where)
        if field.target in result and result[field.target] != checked:
            raise InvalidValue("given twice, under two names and with two values", field=where)
        if checked is not None:
            result[field.target] = checked
    if more := [name for name in GRAMMARS if name in result][1:]:
        raise InvalidValue(f"give one of {', '.join(GRAMMARS)}", field=f"{prefix}{more[0]}")
    if result.get("top_k") == 0:
        # Both mean off in one API or another; SGLang knows only -1.
        result["top_k"] = -1
    return result


def fit_to_engine(sampling: dict[str, Any], *, prompt_tokens: int, room: Room, field: str) -> None:
    """Hold what `read_parameters` returned to what the engine has. `max_new_tokens` becomes at most what the prompt
    leaves of the context; that is also its default.

    Raises ContextLengthExceeded of `field` for a prompt that is too long, with both numbers,
    InvalidValue, and Unsupported for what this engine lacks.
    """
    if prompt_tokens > room.prompt_tokens:
        raise ContextLengthExceeded(
            f"the prompt has {prompt_tokens} tokens; this engine takes at most {room.prompt_tokens}, with a context "
            f"length of {room.context_length}, answer included; shorten it",
            field=field,
        )
    if sampling.get("min_p") and not room.min_p:
        raise Unsupported("this engine runs with enable_deterministic_inference, which excludes it", field="min_p")
    for token_id in sampling.get("stop_token_ids", ()):
        _in_vocabulary(token_id, room, "stop_token_ids")
    for token_id in sampling.get("logit_bias", ()):
        _in_vocabulary(int(token_id), room, f"logit_bias.{token_id}")
    left = room.context_length - prompt_tokens
    sampling["max_new_tokens"] = min(int(sampling.get("max_new_tokens", left)), left)
    if int(sampling.get("min_new_tokens", 0)) > sampling["max_new_tokens"]:
        raise InvalidValue("more than max_tokens allows", field="min_tokens")


def _in_vocabulary(token_id: int, room: Room, where: str) -> None:
    if token_id >= room.vocab_size:
        raise InvalidValue(f"{token_id} is no token id: the vocabulary ends at {room.vocab_size - 1}", field=where)


def _integer(value: Any, field: Field, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
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
    # A structural tag holds the schemas of all tools.
    bound = limits.JSON_BYTES if field.target == "structural_tag" else limits.SCHEMA_BYTES
    bound.check(len(value.encode()), field=where)
    if not value:
        # SGLang takes it for none, and the answer would be free.
        raise InvalidValue("must not be empty; leave it out", field=where)
    return value


def _strings(value: Any, field: Field, where: str) -> list[str] | None:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    # An empty string is how some clients say "none".
    kept = [each for each in values if each]
    limits.STOP_STRINGS.check(len(kept), field=where)
    for each in kept:
        limits.STOP_BYTES.check(len(each.encode()), field=where)
    return kept or None


def _ids(value: Any, field: Field, where: str) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(each, int) and not isinstance(each, bool) for each in value):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    limits.STOP_TOKEN_IDS.check(len(value), field=where)
    if any(each < 0 or each > TOKENS_MAXIMUM for each in value):
        raise InvalidValue(f"token ids lie in 0 to {TOKENS_MAXIMUM}", field=where)
    return value


def _bias(value: Any, field: Field, where: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise InvalidType(f"must be {field.kind.value}", field=where)
    limits.LOGIT_BIAS.check(len(value), field=where)
    result = {}
    for key, bias in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= ID_DIGITS):
            raise InvalidValue("keys are token ids, in decimal", field=where)
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
