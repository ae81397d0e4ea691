"""The ensemble's first step: one chat request in, token ids, sampling parameters and grammar out.

Everything a client can get wrong is refused here, by the name of the field, before the engine is asked. Stop strings go
along in `request_context`: with tools in play they are matched on content alone, by postprocess.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_k2_serving import settings
from kimi_k2_serving.core import sampling as core_sampling
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidValue, MissingField
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.render import render
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine.checkpoint import inspect
from kimi_k2_serving.engine.config import load_engine_config
from kimi_k2_serving.grammar.constraint import Bounds, constrain
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.context import RequestContext
from kimi_k2_serving.triton.table import ENSEMBLE_INPUTS, PREPROCESS_OUTPUTS, Tensor

OUTPUTS = {tensor.name: tensor for tensor in PREPROCESS_OUTPUTS}


@dataclass(frozen=True, slots=True)
class ChatModel:
    """What one checkpoint and preset fix. `defaults` are sampling parameters by SGLang's names."""

    vocabulary: Vocabulary
    context_length: int
    bounds: Bounds
    defaults: dict[str, Any]

    @classmethod
    def load(cls, model_directory: Path) -> ChatModel:
        """`model_directory` is preprocess's own: the engine's engine.yaml beside it is the one source of truth."""
        path = model_directory.parent / "kimi_k2_engine" / "1" / "engine.yaml"
        config = load_engine_config(path, settings.inherited())
        checkpoint = inspect(config.checkpoint)
        if not checkpoint.is_k2:
            raise InvalidValue("is no Kimi K2 checkpoint; the ensemble serves no other", field="checkpoint")
        return cls(
            vocabulary=Vocabulary.load(checkpoint.path),
            context_length=int(config.server_args.get("context_length", checkpoint.context_length)),
            bounds=Bounds.demo() if config.preset.grammar == "demo" else Bounds.production(),
            defaults=default_sampling(checkpoint.path),
        )

    def prepare(self, request: Any, *, new_uid: Callable[[], str]) -> list[tuple[Tensor, Sequence[Any]]]:
        """The step's outputs. Raises InvalidRequest's leaves, each naming the field."""
        tensors.refuse_parameters(request, (tensor.name for tensor in ENSEMBLE_INPUTS))
        stream = tensors.flag(request, "stream", False)
        conversation = read_chat(request)
        sampling = self._sampling(request)
        prompt = render(conversation, sort_tool_keys=self.vocabulary.sort_tool_keys)
        ids = self.vocabulary.encode_prompt(prompt.segments)
        core_sampling.limit_length(sampling, prompt_tokens=len(ids), context_length=self.context_length)
        constraint = constrain(conversation, self.vocabulary, bounds=self.bounds)
        if constraint.structural_tag is not None:
            sampling["structural_tag"] = constraint.structural_tag
        context = RequestContext(
            uid=new_uid(),
            stream=stream,
            tools=tuple(tool.name for tool in conversation.tools),
            first_index=prompt.first_call_index,
            parallel=conversation.parallel_tool_calls,
            stops=tuple(sampling.get("stop", ())),
        )
        if conversation.tools:
            sampling.pop("stop", None)
        values: dict[str, Sequence[Any]] = {
            "input_ids": ids,
            "engine_stream": [stream],
            "engine_sampling": [json.dumps(sampling)],
            "request_context": [context.encode()],
        }
        return [(OUTPUTS[name], value) for name, value in values.items()]

    def _sampling(self, request: Any) -> dict[str, Any]:
        given = core_sampling.read(tensors.sampling(request))
        for name in core_sampling.GRAMMARS:
            if name in given:
                raise InvalidValue("use response_format or tools", field=f"sampling_parameters.{name}")
        given.pop("skip_special_tokens", None)
        stop_ids = {*given.get("stop_token_ids", ()), *self.vocabulary.stop_ids}
        return {**self.defaults, **given, "stop_token_ids": sorted(stop_ids)}


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


def default_sampling(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's own generation_config.json: K2's recommends temperature 0.6."""
    path = checkpoint / "generation_config.json"
    if not path.is_file():
        return {}
    data = json.loads(path.read_text("utf-8"))
    known = ("temperature", "top_p", "top_k", "repetition_penalty")
    return core_sampling.read({name: data[name] for name in known if data.get(name) is not None})
