"""The ensemble's first step: one chat request in, token ids, sampling parameters and grammar out.

Everything a client can get wrong is refused here, by the name of the field, before the engine is asked. Stop strings go
along in `request_context`: with tools in play they are matched on content alone, by postprocess.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.chat.model import ChatModel
from kimi_k2_serving.chat.prompt import Draft
from kimi_k2_serving.core import sampling as core_sampling
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import ContextLengthExceeded, InvalidValue, MissingField
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.context import RequestContext
from kimi_k2_serving.triton.seal import Seal
from kimi_k2_serving.triton.table import ENSEMBLE_INPUTS, PREPROCESS_OUTPUTS, SERVING, Tensor

OUTPUTS = {tensor.name: tensor for tensor in PREPROCESS_OUTPUTS}


@dataclass(frozen=True, slots=True)
class Reading:
    """A request that was read. `serving` has the tensors that are the engine's alone, by the name of their output."""

    stream: bool
    draft: Draft
    serving: dict[str, int]

    def outputs(self, uid: str, seal: Seal, now: float) -> list[tuple[Tensor, Sequence[Any]]]:
        """The step's outputs; waits for the constraint. Raises what it raises."""
        prompt = self.draft.held()
        assert prompt.first_call is not None
        context = RequestContext(
            uid=uid,
            stream=self.stream,
            tools=prompt.tools,
            first_index=prompt.first_call,
            parallel=prompt.parallel,
            stops=prompt.stops,
            relaxed=None if prompt.relaxed is None else json.dumps(prompt.relaxed.encode()),
        )
        values: dict[str, Sequence[Any]] = {
            "input_ids": prompt.ids,
            "engine_stream": [self.stream],
            "engine_sampling": [json.dumps(prompt.sampling)],
            "request_context": [context.encode(seal, now)],
            **{name: [value] for name, value in self.serving.items()},
        }
        return [(OUTPUTS[name], value) for name, value in values.items()]


def read(request: Any, model: ChatModel) -> Reading:
    """Raises InvalidRequest's leaves, each naming the field."""
    tensors.refuse_parameters(request, (tensor.name for tensor in ENSEMBLE_INPUTS))
    stream = tensors.flag(request, "stream", False)
    conversation = read_chat(request)
    serving = {f"engine_{tensor.name}": tensors.value(request, tensor.name) for tensor in SERVING}
    try:
        draft = model.chat(conversation, read_sampling(request))
    except ContextLengthExceeded as error:
        if tensors.value(request, "messages") is None:
            error.field = "text_input"
        raise
    return Reading(
        stream=stream,
        draft=draft,
        serving={name: value for name, value in serving.items() if value is not None},
    )


def read_sampling(request: Any) -> dict[str, Any]:
    given = core_sampling.read(tensors.sampling(request))
    for name in core_sampling.GRAMMARS:
        if name in given:
            raise InvalidValue("use response_format or tools", field=f"sampling_parameters.{name}")
    given.pop("skip_special_tokens", None)
    return given


def read_chat(request: Any) -> Conversation:
    messages = tensors.json_value(request, "messages")
    # Some clients always send both, one of them empty.
    text = tensors.value(request, "text_input") or None
    if (messages is None) == (text is None):
        raise MissingField("give exactly one of messages and text_input, not empty", field="messages")
    if messages is None:
        messages = [{"role": "user", "content": text}]
    return read_conversation(
        messages=messages,
        tools=tensors.json_value(request, "tools"),
        tool_choice=read_tool_choice(request),
        response_format=tensors.json_value(request, "response_format"),
        parallel_tool_calls=tensors.flag(request, "parallel_tool_calls", True),
    )


def read_tool_choice(request: Any) -> Any:
    """A bare word, as OpenAI's string form, or JSON."""
    text = tensors.value(request, "tool_choice")
    if text is None or text.lstrip()[:1] in ("{", '"', "["):
        return tensors.json_value(request, "tool_choice")
    return text.strip() or None
