"""Checks and reads the top-level fields of a request.

No field is dropped silently: each is read, documented as ignored, or refused with an error that names it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kimi_k2_serving.core import sampling
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, UnknownField, Unsupported
from kimi_k2_serving.core.limits import CHOICES, TOP_LOGPROBS
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object, as_flag, as_object, is_whole

# Sampling parameters under the names that OpenAI's clients and SGLang's extras use.
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "min_tokens",
    "ignore_eos",
    "max_tokens",
    "max_completion_tokens",
)


# Refused fields that request a feature even with an empty object, which stands for its defaults.
SWITCHES = frozenset({"web_search_options", "audio", "moderation", "container", "prompt"})


def check_fields(body: Object, *, known: Collection[str], ignored: Collection[str], refused: Mapping[str, str]) -> None:
    """Raises Unsupported for a refused field whose value requests something, UnknownField for an unknown name."""
    for name, value in body.items():
        if name in refused:
            if value not in (None, False, [], "") and (value != {} or name in SWITCHES):
                raise Unsupported(refused[name], field=name)
        elif name not in known and name not in ignored:
            # The name is the client's text, so it is cut, and only this client gets it.
            raise UnknownField("is not a field of this request; remove it", field=name[:64])


def read_sampling(body: Object, names: Collection[str] = SAMPLING) -> dict[str, Any]:
    """Reads SGLang's sampling parameters. Null means absent."""
    return sampling.read_parameters({name: body[name] for name in names if body.get(name) is not None})


def integer(value: Json, path: str, *, minimum: int, default: int | None = None) -> int | None:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_whole(value):
        raise InvalidType("must be an integer", field=path)
    if value < minimum:
        raise InvalidValue(f"must be at least {minimum}", field=path)
    return int(value)


def read_choices(value: Json) -> int:
    """Reads `n`, the number of choices; 1 by default."""
    n = integer(value, "n", minimum=1, default=1)
    assert n is not None
    CHOICES.check(n, field="n")
    return n


def top_logprobs(body: Object) -> int | None:
    """Reads chat's `logprobs` and `top_logprobs`. None if no log-probabilities are requested."""
    wanted = as_flag(body.get("logprobs"), "logprobs", default=False)
    top = integer(body.get("top_logprobs"), "top_logprobs", minimum=0)
    if top is not None:
        TOP_LOGPROBS.check(top, field="top_logprobs")
        if not wanted and top > 0:
            raise InvalidValue("needs logprobs: true", field="top_logprobs")
    return (top or 0) if wanted else None


def stream_options(body: Object) -> tuple[bool, bool]:
    """(include_usage, continuous_usage_stats)."""
    value = body.get("stream_options")
    if value is None:
        return False, False
    options = as_object(value, "stream_options")
    if not body.get("stream"):
        raise InvalidValue("needs stream: true", field="stream_options")
    for name in options:
        if name not in ("include_usage", "continuous_usage_stats", "include_obfuscation"):
            raise UnknownField("is not a field of stream_options; remove it", field=f"stream_options.{name[:64]}")
    include = as_flag(options.get("include_usage"), "stream_options.include_usage", default=False)
    path = "stream_options.continuous_usage_stats"
    continuous = as_flag(options.get("continuous_usage_stats"), path, default=False)
    return include or continuous, continuous
