"""The ensemble's first step. It turns one chat request into token ids, sampling parameters and a grammar.

All invalid input is refused here, with the name of the field, before the request reaches the engine. Stop strings go to
postprocess in `request_context`. If tools are declared, they are matched on content alone. Nothing here imports Triton,
because a large request is read in another process.
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
# The keys of `sampling_parameters` that a chat takes.
KNOWN = frozenset({*core_sampling.FIELDS, "n"}) - frozenset(core_sampling.GRAMMARS)


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of reading a request, which may be sent to another process. `job`: the encoded input for compiling the
    constraint, b"" for none. `serving`: the values for the engine alone, by output name.
    """

    stream: bool
    choices: int
    prompt: PreparedPrompt
    job: bytes
    serving: dict[str, int]
    notices: list[str]

    def encode(self) -> bytes:
        return dump([self.stream, self.choices, prompt_fields(self.prompt), self.job, self.serving, self.notices])

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Reading:
        stream, choices, prompt, job, serving, notices = load(data)
        return cls(stream, choices, prompt_of(prompt), job, serving, notices)

    def outputs(
        self, prompt: PreparedPrompt, uid: str, seal: Seal, now: float
    ) -> list[tuple[TensorSpec, Sequence[Any]]]:
        """The step's outputs; `prompt` includes the constraint. Raises LimitExceeded."""
        assert prompt.first_call is not None
        sampling = prompt.sampling if self.choices == 1 else {**prompt.sampling, "n": self.choices}
        context = RequestContext(
            uid=uid,
            stream=self.stream,
            choices=self.choices,
            tools=prompt.tools,
            first_index=prompt.first_call,
            parallel=prompt.parallel,
            stops=prompt.stops,
            relaxed=None if prompt.relaxed is None else json.dumps(prompt.relaxed.encode()),
            notices=json.dumps(self.notices, ensure_ascii=False) if self.notices else None,
        )
        values: dict[str, Sequence[Any]] = {
            "input_ids": prompt.ids,
            "engine_stream": [self.stream],
            "engine_sampling": [json_text(sampling)],
            "request_context": [context.encode(seal, now)],
            **{name: [value] for name, value in self.serving.items()},
        }
        return [(OUTPUTS[name], value) for name, value in values.items()]


def read_chat_inputs(given: Inputs, model: ChatModel) -> Reading:
    """Read a chat request. Raises subclasses of InvalidRequest that name the field."""
    inputs.refuse_parameters(given, (tensor.name for tensor in ENSEMBLE_INPUTS))
    stream = inputs.flag(given, "stream", False)
    parameters = inputs.sampling(given)
    choices = inputs.choices(given, parameters.pop("n", None))
    notices = Notices()
    conversation = read_chat(given, notices)
    sampling = read_sampling(parameters)
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
        choices=choices,
        prompt=prompt,
        job=model.enforcer.job(conversation),
        serving={name: value for name, value in serving.items() if value is not None},
        notices=notices.lines,
    )


def read_sampling(parameters: dict[str, Any]) -> dict[str, Any]:
    """Check the sampling parameters. `parameters` has them under the client's names, including tensors."""
    sampling = core_sampling.read_parameters(parameters, known=KNOWN)
    for name in core_sampling.GRAMMARS:
        if name in sampling:
            raise InvalidValue("not accepted here; use response_format or tools", field=f"sampling_parameters.{name}")
    sampling.pop("skip_special_tokens", None)
    return sampling


def read_chat(given: Inputs, notices: Notices) -> Conversation:
    messages = inputs.json_value(given, "messages")
    # An empty text_input counts as absent: some clients always send both inputs, one of them empty.
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
    continued = inputs.flag(given, "continue_final_message", False)
    conversation = read_conversation(**chat, parallel_tool_calls=parallel, continue_final_message=continued)
    below.check_nested_fields(chat, notices)
    return conversation


def read_tool_choice(given: Inputs) -> Any:
    """The tool choice: a word as in OpenAI's string form, without quotes, or parsed JSON."""
    text = inputs.value(given, "tool_choice")
    if text is None or text.lstrip()[:1] in ("{", '"', "["):
        return inputs.json_value(given, "tool_choice")
    return text.strip() or None
