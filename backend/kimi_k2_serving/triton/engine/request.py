"""Reads one request to the engine model: tensors in, a checked `Job` out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from kimi_k2_serving.core import limits
from kimi_k2_serving.core import sampling as core_sampling
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField
from kimi_k2_serving.core.sampling import Room
from kimi_k2_serving.core.typed_json import is_whole
from kimi_k2_serving.engine.port import Generation
from kimi_k2_serving.engine.text import TextEncoder
from kimi_k2_serving.triton import inputs, tensors
from kimi_k2_serving.triton.inputs import Inputs
from kimi_k2_serving.triton.signatures import ENGINE_INPUTS

# The number of decode steps per chunk when `stream` is false. The client needs only the last chunk, but regular chunks
# show that the engine works on the request, and keep the size of a message independent of the answer's length.
WHOLE_ANSWER_INTERVAL = 256
PRIORITIES = (-100, 100)
DAY_MS = 86_400_000
# Triton and the client have to handle each heartbeat as a response.
SHORTEST_HEARTBEAT_MS = 100
# The outputs that the ensemble takes of a relayed request.
RELAY_OUTPUTS = frozenset({"output_ids", "finish_reason", "num_output_tokens", "request_context", "relay"})
# An error repeats this many characters of an unknown adapter's name.
ADAPTER_SHOWN = 64
# The keys of `sampling_parameters`, without other names for them.
KNOWN = frozenset({*core_sampling.FIELDS, "n", "logprobs", "lora_name"})
# Request parameters that may be sampling parameters.
TAKEN = KNOWN | core_sampling.ALIASES.keys() | core_sampling.USUAL.keys()


@dataclass(frozen=True, slots=True)
class Job:
    """`echo`: text to put before the output. `context`: the request_context as received. `stops`: the text is cut at
    these strings. `n`: number of answers. `timeout`, `heartbeat`: seconds, or None. `outputs`: names of the requested
    outputs, all by default.
    """

    generation: Generation
    n: int
    stream: bool
    echo: str
    context: str | None
    stops: tuple[str, ...]
    logprobs: bool
    prompt_logprobs: bool
    cumulative_logprob: bool
    num_input_tokens: bool
    num_output_tokens: bool
    timeout: float | None
    heartbeat: float | None
    outputs: frozenset[str]


def read_job(
    request: Any, encoder: TextEncoder, *, room: Room, new_uid: Callable[[], str], adapters: Collection[str] = ()
) -> Job:
    """`adapters`: names of the engine's adapters. Raises subclasses of InvalidRequest that name the tensor or key."""
    given = tensors.Arrived(request)
    inputs.refuse_parameters(given, (tensor.name for tensor in ENGINE_INPUTS), taken=TAKEN)
    stream = inputs.flag(given, "stream", False)
    text, input_ids = read_prompt(given, encoder)
    parameters = read_sampling(given)
    n = read_choices(given, parameters.pop("n", None))
    alternatives = parameters.pop("logprobs", None)
    adapter = read_adapter(parameters.pop("lora_name", None), adapters)
    sampling = core_sampling.read_parameters(parameters, known=KNOWN)
    field = "input_ids" if text is None else "text_input"
    core_sampling.fit_to_engine(sampling, prompt_tokens=len(input_ids), room=room, field=field)
    context = inputs.value(given, "request_context")
    top = read_top_logprobs(given, alternatives)
    cumulative = inputs.flag(given, "return_cumulative_logprob", False)
    prompt = read_prompt_logprobs(given, len(input_ids), alternatives)
    outputs = frozenset(request.requested_output_names())
    job = Job(
        generation=Generation(
            uid=new_uid() if context is None else context_uid(context),
            input_ids=input_ids,
            sampling=sampling | ways(stream),
            stream=stream,
            top_logprobs=(prompt or 0) if top is None and (cumulative or prompt is not None) else top,
            prompt_logprobs=prompt is not None,
            priority=read_integer(given, "request_priority", *PRIORITIES) or 0,
            cache_salt=read_salt(given),
            text="text_output" in outputs,
            reader=inputs.value(given, "token_reader") or "",
            trace=inputs.read_traceparent(given),
            adapter=adapter,
        ),
        n=n,
        stream=stream,
        echo=read_echo(given, text, stream),
        context=context,
        stops=tuple(sampling.get("stop", ())),
        logprobs=top is not None,
        prompt_logprobs=prompt is not None,
        cumulative_logprob=cumulative,
        num_input_tokens=inputs.flag(given, "return_num_input_tokens", False),
        num_output_tokens=inputs.flag(given, "return_num_output_tokens", False),
        timeout=read_seconds(given, "timeout_ms", 1),
        heartbeat=read_heartbeat(given, stream),
        outputs=outputs,
    )
    return replace(job, generation=replace(job.generation, relayed=True)) if may_relay(job) else job


def may_relay(job: Job) -> bool:
    """Whether postprocess may read the ids itself: the plain ids of one streamed answer of the ensemble. With
    heartbeats it may not, because only the engine model knows how long nothing was sent.
    """
    generation = job.generation
    plain = generation.top_logprobs is None and not generation.text and not generation.reader
    return job.stream and job.n == 1 and plain and job.heartbeat is None and job.outputs >= RELAY_OUTPUTS


def ways(stream: bool) -> dict[str, Any]:
    """SGLang's parameters for the form of its output. SGLang only ends the run at a stop string. ResponseWriter cuts
    the text, because it also holds back text that may still become a stop string.
    """
    return {"no_stop_trim": True} | ({} if stream else {"stream_interval": WHOLE_ANSWER_INTERVAL})


def read_sampling(given: Inputs) -> dict[str, Any]:
    """Sampling parameters under the client's names. Clients of Triton's vLLM backend also send them as request
    parameters. As in that backend, those count only without `sampling_parameters`.
    """
    own = inputs.sampling(given)
    if inputs.value(given, "sampling_parameters") is None:
        sent = {name: each for name, each in inputs.parameters(given).items() if name in TAKEN}
        own = {**sent, **own}
    return core_sampling.spelled_out(own)


def read_prompt(given: Inputs, encoder: TextEncoder) -> tuple[str | None, list[int]]:
    # An empty text_input counts as absent: some clients always send both inputs, one of them empty.
    text = inputs.value(given, "text_input") or None
    ids = inputs.ids(given, "input_ids")
    if text is None and ids is None:
        raise MissingField("give one of text_input and input_ids, not empty", field="input_ids")
    if text is not None and ids is not None:
        raise InvalidValue("give one of text_input and input_ids, not both", field="input_ids")
    if ids is None:
        assert text is not None
        return text, encoder.encode(text)
    if min(ids) < 0 or max(ids) >= encoder.vocab_size:
        raise InvalidValue(f"ids must lie in 0 to {encoder.vocab_size - 1}", field="input_ids")
    return None, ids


def read_choices(given: Inputs, key: Any) -> int:
    """The number of answers, `n`. The tensor overrides the key of `sampling_parameters`."""
    found = inputs.choices(given, key)
    if found > 1 and inputs.value(given, "token_reader"):
        raise InvalidValue("must be 1 with token_reader", field="n")
    return found


def read_adapter(found: Any, known: Collection[str]) -> str:
    """The name of a known adapter; "" if null, empty or absent."""
    if found is None or found == "":
        return ""
    if not isinstance(found, str):
        raise InvalidType("must be the name of an adapter", field="lora_name")
    if found not in known:
        has = f"this model has: {', '.join(known)}" if known else "engine.yaml declares no adapters"
        raise InvalidValue(f"no adapter {found[:ADAPTER_SHOWN]!r}; {has}", field="lora_name")
    return found


def read_echo(given: Inputs, text: str | None, stream: bool) -> str:
    if inputs.flag(given, "exclude_input_in_output", True):
        return ""
    if stream:
        raise InvalidValue("must be true when stream is true", field="exclude_input_in_output")
    return text or ""


def read_top_logprobs(given: Inputs, key: Any) -> int | None:
    """The number of alternatives per token; None if `return_logprobs` is not set. `key`: vLLM's, `logprobs`."""
    top = alternatives_of(given, key)
    if top is not None:
        if top < 0:
            raise InvalidValue(f"must not be negative, got {top}", field="top_logprobs")
        limits.TOP_LOGPROBS.check(top, field="top_logprobs")
    if inputs.flag(given, "return_logprobs", False):
        return int(top or 0)
    return None


def alternatives_of(given: Inputs, key: Any) -> int | None:
    top = inputs.value(given, "top_logprobs")
    if top is None and key is not None and not is_whole(key):
        raise InvalidType("must be an integer", field="sampling_parameters.logprobs")
    found = key if top is None else top
    return None if found is None else int(found)


def read_prompt_logprobs(given: Inputs, prompt_tokens: int, key: Any) -> int | None:
    """The number of alternatives per token of the prompt; None if `return_prompt_logprobs` is not set."""
    if not inputs.flag(given, "return_prompt_logprobs", False):
        return None
    top = int(alternatives_of(given, key) or 0)
    limits.PROMPT_LOGPROBS.check(prompt_tokens * (top + 1), field="return_prompt_logprobs")
    return top


def read_heartbeat(given: Inputs, stream: bool) -> float | None:
    seconds = read_seconds(given, "heartbeat_ms", SHORTEST_HEARTBEAT_MS)
    if seconds is not None and not stream:
        raise InvalidValue("needs stream true: without it there is exactly one response", field="heartbeat_ms")
    return seconds


def read_seconds(given: Inputs, name: str, minimum: int) -> float | None:
    """A tensor in milliseconds, at least `minimum`, converted to seconds."""
    milliseconds = read_integer(given, name, minimum, DAY_MS)
    return None if milliseconds is None else milliseconds / 1000


def read_integer(given: Inputs, name: str, minimum: int, maximum: int) -> int | None:
    found = inputs.value(given, name)
    if found is None:
        return None
    if not minimum <= found <= maximum:
        raise InvalidValue(f"must lie in {minimum} to {maximum}, got {found}", field=name)
    return int(found)


def read_salt(given: Inputs) -> str | None:
    """The cache salt; None if it is absent or empty. SGLang also treats an empty salt as none."""
    salt = inputs.value(given, "cache_salt")
    if salt is not None:
        limits.CACHE_SALT_BYTES.check(len(salt.encode()), field="cache_salt")
    return salt or None


def context_uid(context: str) -> str:
    # The client may put anything after the uid; it is returned unchanged.
    uid = context.partition("\n")[0].partition(" ")[0]
    if not uid:
        raise InvalidValue("must start with a uid", field="request_context")
    limits.REQUEST_ID_BYTES.check(len(uid.encode()), field="request_context")
    return uid


def is_probe(request: Any, error: Exception) -> bool:
    """Whether a refused request asked for nothing. The frontend's probe has the input `stream`."""
    return isinstance(error, MissingField) and all(tensor.name() == "stream" for tensor in request.inputs())
