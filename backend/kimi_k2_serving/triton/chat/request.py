"""The ensemble's first step: one chat request in, token ids, sampling parameters and grammar out.

Everything a client can get wrong is refused here, by the name of the field, before the engine is asked. Stop strings go
along in `request_context`: with tools in play they are matched on content alone, by postprocess. Nothing here imports
Triton: a large request is read in another process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.chat import below
from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.chat.notices import Notices
from kimi_k2_serving.chat.prompt import PreparedPrompt
from kimi_k2_serving.core import sampling as core_sampling
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import ContextLengthExceeded, InvalidValue, MissingField
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.reading.crossing import dump, json_text, load, prompt_fields, prompt_of
from kimi_k2_serving.triton import inputs
from kimi_k2_serving.triton.chat.context import RequestContext
from kimi_k2_serving.triton.chat.seal import Seal
from kimi_k2_serving.triton.inputs import Inputs
from kimi_k2_serving.triton.signatures import ENSEMBLE_INPUTS, PREPROCESS_OUTPUTS, SERVING, TensorSpec

OUTPUTS = {tensor.name: tensor for tensor in PREPROCESS_OUTPUTS}


@dataclass(frozen=True, slots=True)
class Reading:
    """A request that was read; it crosses processes. `job` is what determines its constraint, b"" for none. `serving`
    has the tensors that are the engine's alone, by the name of their output.
    """

    stream: bool
    prompt: PreparedPrompt
    job: bytes
    serving: dict[str, int]
    notices: list[str]

    def encode(self) -> bytes:
        return dump([self.stream, prompt_fields(self.prompt), self.job, self.serving, self.notices])

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Reading:
        stream, prompt, job, serving, notices = load(data)
        return cls(stream, prompt_of(prompt), job, serving, notices)

    def outputs(self, held: PreparedPrompt, uid: str, seal: Seal, now: float) -> list[tuple[TensorSpec, Sequence[Any]]]:
        """The step's outputs; `held` is the prompt with its constraint. Raises LimitExceeded."""
        assert held.first_call is not None
        context = RequestContext(
            uid=uid,
            stream=self.stream,
            tools=held.tools,
            first_index=held.first_call,
            parallel=held.parallel,
            stops=held.stops,
            relaxed=None if held.relaxed is None else json.dumps(held.relaxed.encode()),
            notices=json.dumps(self.notices, ensure_ascii=False) if self.notices else None,
        )
        values: dict[str, Sequence[Any]] = {
            "input_ids": held.ids,
            "engine_stream": [self.stream],
            "engine_sampling": [json_text(held.sampling)],
            "request_context": [context.encode(seal, now)],
            **{name: [value] for name, value in self.serving.items()},
        }
        return [(OUTPUTS[name], value) for name, value in values.items()]


def read_chat_inputs(given: Inputs, model: ChatModel) -> Reading:
    """Raises InvalidRequest's leaves, each naming the field."""
    inputs.refuse_parameters(given, (tensor.name for tensor in ENSEMBLE_INPUTS))
    stream = inputs.flag(given, "stream", False)
    notices = Notices()
    conversation = read_chat(given, notices)
    sampling = read_sampling(given)
    notices.seeded(sampling, heeded=model.heeds_seeds)
    serving = {f"engine_{tensor.name}": inputs.value(given, tensor.name) for tensor in SERVING}
    try:
        prompt = model.prompt(conversation, sampling)
    except ContextLengthExceeded as error:
        if inputs.value(given, "messages") is None:
            error.field = "text_input"
        raise
    return Reading(
        stream=stream,
        prompt=prompt,
        job=model.enforcer.job(conversation),
        serving={name: value for name, value in serving.items() if value is not None},
        notices=notices.lines,
    )


def read_sampling(given: Inputs) -> dict[str, Any]:
    sampling = core_sampling.read_parameters(inputs.sampling(given))
    for name in core_sampling.GRAMMARS:
        if name in sampling:
            raise InvalidValue("use response_format or tools", field=f"sampling_parameters.{name}")
    sampling.pop("skip_special_tokens", None)
    return sampling


def read_chat(given: Inputs, notices: Notices) -> Conversation:
    messages = inputs.json_value(given, "messages")
    # Some clients always send both, one of them empty.
    text = inputs.value(given, "text_input") or None
    if (messages is None) == (text is None):
        raise MissingField("give exactly one of messages and text_input, not empty", field="messages")
    if messages is None:
        messages = [{"role": "user", "content": text}]
    chat: dict[str, Any] = {
        "messages": messages,
        "tools": inputs.json_value(given, "tools"),
        "tool_choice": read_tool_choice(given),
        "response_format": inputs.json_value(given, "response_format"),
    }
    parallel = inputs.flag(given, "parallel_tool_calls", True)
    conversation = read_conversation(**chat, parallel_tool_calls=parallel)
    below.check_nested_fields(chat, notices)
    return conversation


def read_tool_choice(given: Inputs) -> Any:
    """A bare word, as OpenAI's string form, or JSON."""
    text = inputs.value(given, "tool_choice")
    if text is None or text.lstrip()[:1] in ("{", '"', "["):
        return inputs.json_value(given, "tool_choice")
    return text.strip() or None
