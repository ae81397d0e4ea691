"""The table of all tensors of all models. `auto_complete_config` uses it, and tests compare docs/tensors.md and the
config.pbtxt files with it.

Types have config.pbtxt's names; a dim is a fixed size, or -1 for any. Nothing here imports Triton.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpec:
    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool
    meaning: str


def scalar(name: str, data_type: str, meaning: str) -> TensorSpec:
    return TensorSpec(name, f"TYPE_{data_type}", (1,), True, meaning)


def series(name: str, data_type: str, meaning: str) -> TensorSpec:
    return TensorSpec(name, f"TYPE_{data_type}", (-1,), True, meaning)


def as_required(tensor: TensorSpec) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.data_type, tensor.dims, False, tensor.meaning)


STREAM = scalar("stream", "BOOL", "true: a response for each new piece of output; false (default): exactly one")
SAMPLING_PARAMETERS = scalar(
    "sampling_parameters", "STRING", "JSON object of sampling parameters; a tensor of the same name overrides a key"
)

# Sampling parameters as tensors; each is also a key of `sampling_parameters`.
SAMPLING: tuple[TensorSpec, ...] = (
    scalar("max_tokens", "INT32", "maximum of new tokens; default and upper bound: context length minus prompt"),
    scalar("min_tokens", "INT32", "minimum of new tokens"),
    scalar("temperature", "FP32", "0 (greedy) to 2"),
    scalar("top_p", "FP32", "more than 0, at most 1"),
    scalar("top_k", "INT32", "-1 or 0 (all), or at least 1"),
    scalar("min_p", "FP32", "0 to 1"),
    scalar("frequency_penalty", "FP32", "-2 to 2"),
    scalar("presence_penalty", "FP32", "-2 to 2"),
    scalar("repetition_penalty", "FP32", "0.01 to 2"),
    scalar("seed", "UINT64", "0 to 2^63 - 1; has an effect only with `deterministic: true` in engine.yaml"),
    scalar("ignore_eos", "BOOL", "go on after the end-of-turn token, for benchmarks"),
    series("stop_words", "STRING", "strings that end the answer and are left out of it; empty ones are ignored"),
    series("stop_token_ids", "INT32", "token ids that end the answer"),
    series("bad_words", "STRING", "only empty strings are accepted, for clients that always send it"),
)

CHOICES = scalar("n", "INT32", "number of answers, 1 (default) to 8; also a key of `sampling_parameters`")
INDEX = series("index", "INT32", "with `n` above 1: the number of the answer, from 0, that each element is of")

RELAY = series(
    "relay",
    "STRING",
    "inside the ensemble: empty when further ids go to postprocess over the token socket; after that, a final error",
)

# Tensors that say how a request is served, not what is sampled. The names must differ from Triton's own `priority` and
# `timeout`.
SERVING: tuple[TensorSpec, ...] = (
    scalar("request_priority", "INT32", "-100 to 100, higher first, default 0: the order of waiting requests"),
    scalar("timeout_ms", "INT32", "time limit of the whole request, which then fails with deadline_exceeded"),
    scalar(
        "heartbeat_ms", "INT32", "at least 100, stream only: send an empty response when none was sent for this long"
    ),
)

ENGINE_INPUTS: tuple[TensorSpec, ...] = (
    scalar(
        "text_input", "STRING", "the prompt as text; control tokens in it are plain text unless parse_special is set"
    ),
    series("input_ids", "INT32", "the prompt as token ids; give this or text_input"),
    STREAM,
    SAMPLING_PARAMETERS,
    *SAMPLING,
    CHOICES,
    scalar(
        "exclude_input_in_output", "BOOL", "false: put text_input before text_output (stream false only); default true"
    ),
    scalar("return_finish_reason", "BOOL", "no effect: the last response always has finish_reason"),
    scalar("return_logprobs", "BOOL", "return `logprobs`"),
    scalar("return_prompt_logprobs", "BOOL", "return `prompt_logprobs`; the prompt is then computed without its cache"),
    scalar("return_cumulative_logprob", "BOOL", "return `cumulative_logprob` with the last response"),
    scalar(
        "return_num_input_tokens", "BOOL", "num_input_tokens on every response, num_cached_tokens on the first, too"
    ),
    scalar("return_num_output_tokens", "BOOL", "num_output_tokens on every response"),
    scalar("top_logprobs", "INT32", "alternatives per token in `logprobs` and `prompt_logprobs`, 0 to 20"),
    scalar(
        "request_context",
        "STRING",
        "the uid, a word of at most 64 bytes, then any text; it is returned as an output",
    ),
    scalar("cache_salt", "STRING", "at most 256 bytes; only requests with the same salt share the prefix cache"),
    scalar(
        "token_reader",
        "STRING",
        "the claim of a frontend on this machine: new ids go to its socket, and only the last response comes here",
    ),
    *SERVING,
)

ENGINE_OUTPUTS: tuple[TensorSpec, ...] = (
    series("text_output", "STRING", "this response's new text (all of it when stream is false)"),
    series("output_ids", "INT32", "this response's new token ids"),
    series("finish_reason", "STRING", "stop, length or abort; on the last response"),
    series("stop_reason", "STRING", "the stop string or stop token id (in decimal) that ended the answer"),
    series("cumulative_logprob", "FP32", "sum of the log-probabilities of all output ids"),
    series("logprobs", "STRING", "JSON: for each new id {token_id: {logprob, rank, decoded_token}}, with alternatives"),
    series(
        "prompt_logprobs",
        "STRING",
        "JSON: as `logprobs`, for each prompt id, null for the first; on the first response",
    ),
    series("num_input_tokens", "UINT32", "prompt tokens; on the last response"),
    series(
        "num_output_tokens",
        "UINT32",
        "number of new tokens in this response; all of them when stream is false, with token_reader or after `relay`",
    ),
    series("num_cached_tokens", "UINT32", "prompt tokens found in the prefix cache; on the last response"),
    INDEX,
    series("request_context", "STRING", "the input on the first response, then only its first line"),
    RELAY,
)

CHAT_INPUTS: tuple[TensorSpec, ...] = (
    scalar("messages", "STRING", "JSON: OpenAI chat messages"),
    scalar("text_input", "STRING", "one user message; give this or messages"),
    scalar("tools", "STRING", "JSON: OpenAI tool declarations"),
    scalar("tool_choice", "STRING", 'auto, none, required, or JSON: {"type": "function", "function": {"name": ...}}'),
    scalar("parallel_tool_calls", "BOOL", "false: at most one call per answer"),
    scalar("response_format", "STRING", "JSON: OpenAI response_format"),
    scalar("continue_final_message", "BOOL", "true: the last message, from the assistant, is the answer's beginning"),
    STREAM,
    SAMPLING_PARAMETERS,
    *SAMPLING,
    CHOICES,
)

# Triton refuses a step whose inputs come both from a decoupled step and from the ensemble. So preprocess passes SERVING
# on to the engine.
ENSEMBLE_INPUTS: tuple[TensorSpec, ...] = (*CHAT_INPUTS, *SERVING)

CHAT_OUTPUTS: tuple[TensorSpec, ...] = (
    series("text_output", "STRING", "new content (all of it when stream is false)"),
    series("tool_calls", "STRING", "JSON: OpenAI tool-call deltas (whole calls when stream is false); absent if none"),
    series("finish_reason", "STRING", "stop, length or tool_calls; on the last response"),
    series(
        "usage",
        "STRING",
        "JSON: prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details; on the last response",
    ),
    series(
        "enforcement",
        "STRING",
        "JSON: the parts of schemas that no grammar enforced, and violations of them; on the last response, if any",
    ),
    series("notices", "STRING", "JSON: lines `path: reason` for input without effect; on the last response, if any"),
    INDEX,
)

PREPROCESS_OUTPUTS: tuple[TensorSpec, ...] = (
    series("input_ids", "INT32", "the rendered prompt"),
    series("engine_stream", "BOOL", "`stream`"),
    series("engine_sampling", "STRING", "JSON: sampling parameters and grammar"),
    series("request_context", "STRING", "uid and tag, then tag and JSON: the facts that postprocess needs"),
    *(
        series(f"engine_{tensor.name}", tensor.data_type.removeprefix("TYPE_"), f"`{tensor.name}`")
        for tensor in SERVING
    ),
)

POSTPROCESS_INPUTS: tuple[TensorSpec, ...] = (
    as_required(series("output_ids", "INT32", "new token ids")),
    as_required(series("request_context", "STRING", "as preprocess made it; after the first response its first line")),
    series("finish_reason", "STRING", "from the engine"),
    series("num_input_tokens", "UINT32", "from the engine"),
    series("num_cached_tokens", "UINT32", "from the engine"),
    series("num_output_tokens", "UINT32", "from the engine"),
    series("index", "INT32", "from the engine"),
    RELAY,
)

# model -> (inputs, outputs), in the order of config.pbtxt.
MODELS: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    "kimi_k2": (ENSEMBLE_INPUTS, CHAT_OUTPUTS),
    "kimi_k2_preprocess": (ENSEMBLE_INPUTS, PREPROCESS_OUTPUTS),
    "kimi_k2_engine": (ENGINE_INPUTS, ENGINE_OUTPUTS),
    "kimi_k2_postprocess": (POSTPROCESS_INPUTS, CHAT_OUTPUTS),
}
