"""The served model: from a conversation to what the engine is asked, and to the parser that reads its answer.

The same core as the ensemble's first and last step. Nothing here waits; `chat` may take long for large prompts and
schemas, so it belongs on a worker thread. Thread-safe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kimi_k2_serving.core import sampling as core_sampling
from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.events import Event, Finish, FinishReason, TextDelta
from kimi_k2_serving.core.messages import Conversation, ToolMode
from kimi_k2_serving.core.phrases import PhraseScanner
from kimi_k2_serving.core.render import render
from kimi_k2_serving.core.tokens import TextDecoder, Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.engine.checkpoint import inspect, require_k2
from kimi_k2_serving.engine.config import Preset
from kimi_k2_serving.grammar.constraint import Bounds, constrain

# What a checkpoint may recommend in its generation_config.json.
RECOMMENDED = ("temperature", "top_p", "top_k", "repetition_penalty")


class Parser(Protocol):
    """An answer's ids to events; `stopped`: whatever the engine still says is of no use."""

    @property
    def stopped(self) -> bool: ...

    def feed(self, ids: Sequence[int]) -> list[Event]: ...

    def finish(self, reason: FinishReason) -> list[Event]: ...


class TextParser:
    """A completion without a chat: text up to the first stop string; control ids have no text."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str]) -> None:
        self._decoder = TextDecoder(vocabulary)
        self._scanner = PhraseScanner(stops)
        self._stop: str | None = None

    @property
    def stopped(self) -> bool:
        return self._stop is not None

    def feed(self, ids: Sequence[int]) -> list[Event]:
        return self._text(self._decoder.feed(ids))

    def finish(self, reason: FinishReason) -> list[Event]:
        events = self._text(self._decoder.finish())
        held = self._scanner.release() if self._stop is None else ""
        if held:
            events.append(TextDelta(held))
        return [*events, Finish(FinishReason.STOP if self._stop is not None else reason, self._stop)]

    def _text(self, text: str) -> list[Event]:
        if self._stop is not None or not text:
            return []
        settled, self._stop, _ = self._scanner.scan(text)
        return [TextDelta(settled)] if settled else []


@dataclass(frozen=True, slots=True)
class Prompt:
    """`first_call` is None for a completion without a chat, whose answer holds no calls; `tools` may be called."""

    ids: list[int]
    text: str
    sampling: dict[str, Any]
    stops: tuple[str, ...]
    tools: tuple[str, ...] = ()
    first_call: int | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`names`: the ids under which it is served, the first is its own. `defaults`: sampling by SGLang's names."""

    names: tuple[str, ...]
    vocabulary: Vocabulary
    context_length: int
    bounds: Bounds
    defaults: Mapping[str, Any]

    @classmethod
    def load(cls, checkpoint: Path, preset: Preset, *, names: tuple[str, ...]) -> ServedModel:
        """Raises NotFound or InvalidValue for a directory that holds no K2 checkpoint."""
        found = inspect(checkpoint)
        require_k2(found)
        return cls(
            names=names,
            vocabulary=Vocabulary.load(found.path),
            context_length=int(preset.server_args.get("context_length", found.context_length)),
            bounds=Bounds.demo() if preset.grammar == "demo" else Bounds.production(),
            defaults=recommended(found.path),
        )

    def chat(self, conversation: Conversation, given: Mapping[str, Any]) -> Prompt:
        """`given`: sampling parameters by SGLang's names. Raises InvalidRequest's leaves."""
        rendered = render(conversation, sort_tool_keys=self.vocabulary.sort_tool_keys)
        ids = self.vocabulary.encode_prompt(rendered.segments)
        sampling = self._sampling(given, len(ids))
        constraint = constrain(conversation, self.vocabulary, bounds=self.bounds)
        if constraint.structural_tag is not None:
            sampling["structural_tag"] = constraint.structural_tag
        stops = tuple(sampling.get("stop", ()))
        if conversation.tools:
            # The engine would match them inside arguments too.
            sampling.pop("stop", None)
        mode = conversation.tool_choice.mode
        return Prompt(
            ids=ids,
            text=rendered.text(),
            sampling=sampling,
            stops=stops,
            tools=() if mode is ToolMode.NONE else tuple(tool.name for tool in conversation.tools),
            first_call=rendered.first_call_index,
            parallel=conversation.parallel_tool_calls and mode is not ToolMode.NAMED,
        )

    def count(self, conversation: Conversation) -> int:
        """Tokens of the prompt that `chat` would make."""
        rendered = render(conversation, sort_tool_keys=self.vocabulary.sort_tool_keys)
        return len(self.vocabulary.encode_prompt(rendered.segments))

    def completion(self, ids: list[int], given: Mapping[str, Any]) -> Prompt:
        """A prompt that is no chat. Raises InvalidValue for ids outside the vocabulary."""
        if not ids:
            raise InvalidValue("must not be empty", field="prompt")
        if min(ids) < 0 or max(ids) >= self.vocabulary.size:
            raise InvalidValue(f"ids must lie in 0 to {self.vocabulary.size - 1}", field="prompt")
        sampling = self._sampling(given, len(ids))
        return Prompt(ids=ids, text="", sampling=sampling, stops=tuple(sampling.get("stop", ())))

    def parser(self, prompt: Prompt) -> Parser:
        if prompt.first_call is None:
            return TextParser(self.vocabulary, prompt.stops)
        return ToolCallParser(
            self.vocabulary,
            tools=prompt.tools,
            first_index=prompt.first_call,
            parallel=prompt.parallel,
            stops=prompt.stops,
        )

    def _sampling(self, given: Mapping[str, Any], prompt_tokens: int) -> dict[str, Any]:
        ends = {*given.get("stop_token_ids", ()), *self.vocabulary.stop_ids}
        sampling = {**self.defaults, **given, "stop_token_ids": sorted(ends)}
        core_sampling.limit_length(sampling, prompt_tokens=prompt_tokens, context_length=self.context_length)
        return sampling


def recommended(checkpoint: Path) -> dict[str, Any]:
    """The checkpoint's own generation_config.json: K2's recommends temperature 0.6."""
    path = checkpoint / "generation_config.json"
    if not path.is_file():
        return {}
    data = json.loads(path.read_text("utf-8"))
    return core_sampling.read({name: data[name] for name in RECOMMENDED if data.get(name) is not None})
