"""The served model: turns a conversation into a request to the engine, and makes the parser of the engine's answer.

The ensemble's first step and the frontend both use it, so both serve the same model. Only the constraint of an unknown
schema has to be waited for; everything else is only processor time. Thread-safe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from kimi_k2_serving.chat.parsers import Parser, TextParser
from kimi_k2_serving.chat.prompt import PreparedPrompt
from kimi_k2_serving.chat.tokenizer_vocabulary import TokenizerVocabulary
from kimi_k2_serving.core import sampling as core_sampling
from kimi_k2_serving.core.errors import Internal, InvalidValue, Unsupported
from kimi_k2_serving.core.messages import Conversation, ToolMode
from kimi_k2_serving.core.render import FORM_0905, Form, Prompt
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.enforcer.enforcer import Enforcer
from kimi_k2_serving.enforcer.worker_client import Worker, WorkerProcess
from kimi_k2_serving.engine.build import python
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint, require_k2
from kimi_k2_serving.engine.config import EngineConfig
from kimi_k2_serving.engine.template_probe import form_of
from kimi_k2_serving.grammar.constraint import Bounds, Constraint

# The sampling parameters that a checkpoint may recommend in its generation_config.json.
RECOMMENDED = ("temperature", "top_p", "top_k", "repetition_penalty")


class Constrainer(Protocol):
    """The interface of `enforcer.enforcer.Enforcer`; `worker` validates what was relaxed."""

    @property
    def worker(self) -> Worker: ...

    def job(self, conversation: Conversation) -> bytes: ...

    def ask_job(self, job: bytes) -> Future[Constraint]: ...

    def close(self) -> None: ...


class NoConstraints:
    """The Constrainer of a model without chats."""

    @property
    def worker(self) -> Worker:
        raise Internal("a model without chats validates nothing")

    def job(self, conversation: Conversation) -> bytes:
        return b""

    def ask_job(self, job: bytes) -> Future[Constraint]:
        raise Internal("a model without chats has no constraints")

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class ChatModel:
    """`names`: the ids under which it is served, its own first. `defaults`: sampling parameters by SGLang's names.

    `form`: how the checkpoint's own template writes the prompt. `heeds_seeds`: whether seeds have an effect. `chats`:
    false for a model whose chats this server can't write; it serves completions.
    """

    names: tuple[str, ...]
    vocabulary: Vocabulary
    context_length: int
    defaults: Mapping[str, Any]
    enforcer: Constrainer
    form: Form = FORM_0905
    heeds_seeds: bool = False
    chats: bool = True

    @classmethod
    def load(cls, config: EngineConfig, *, names: tuple[str, ...] = ()) -> ChatModel:
        """The model of an engine.yaml; its worker is still loading. Raises NotFound or InvalidValue for a directory
        without a K2 checkpoint, or with one whose template makes other prompts than this server.
        """
        found = inspect_checkpoint(config.checkpoint)
        require_k2(found)
        vocabulary = Vocabulary.load(found.path)
        form = form_of(found.path, sorts=vocabulary.sort_tool_keys, strict=config.strict_template, python=python())
        worker = WorkerProcess(found.path, python=python())
        worker.start()
        return cls(
            names=names,
            vocabulary=vocabulary,
            context_length=int(config.server_args.get("context_length", found.context_length)),
            defaults=recommended(found.path),
            enforcer=Enforcer(worker, bounds=bounds(config, form)),
            form=form,
            heeds_seeds=bool(config.server_args.get("enable_deterministic_inference")),
        )

    @classmethod
    def load_any(cls, config: EngineConfig, *, name: str) -> ChatModel:
        """As `load` for a K2 checkpoint; any other is served without chats. Raises NotFound or InvalidValue."""
        found = inspect_checkpoint(config.checkpoint)
        if found.is_k2:
            return cls.load(config, names=(name,))
        return cls(
            names=(name,),
            vocabulary=TokenizerVocabulary.read(found.path, found.vocab_size),
            context_length=int(config.server_args.get("context_length", found.context_length)),
            defaults=recommended(found.path),
            enforcer=NoConstraints(),
            heeds_seeds=bool(config.server_args.get("enable_deterministic_inference")),
            chats=False,
        )

    @property
    def room(self) -> core_sampling.Room:
        return core_sampling.Room.of_context(self.vocabulary.size, self.context_length)

    def wait(self) -> None:
        """Wait until the worker takes jobs. Raises Internal or Overloaded if it does not start."""
        self.enforcer.worker.wait()

    def close(self) -> None:
        self.enforcer.close()

    def prompt(self, conversation: Conversation, given: Mapping[str, Any]) -> PreparedPrompt:
        """`given`: sampling parameters by SGLang's names. Raises subclasses of InvalidRequest."""
        rendered = self.rendered(conversation)
        ids = self.vocabulary.encode_prompt(rendered.segments)
        sampling = self._sampling(given, len(ids), "messages")
        stops = tuple(sampling.get("stop", ()))
        if conversation.tools:
            # The engine would match stop strings inside arguments, too; the parser matches them in content alone.
            sampling.pop("stop", None)
        choice = conversation.tool_choice
        mode = choice.mode
        allowed = tuple(
            tool.name for tool in conversation.tools if choice.allowed is None or tool.name in choice.allowed
        )
        return PreparedPrompt(
            ids=ids,
            sampling=sampling,
            stops=stops,
            tools=() if mode is ToolMode.NONE else allowed,
            first_call=rendered.first_call_index,
            parallel=conversation.parallel_tool_calls and mode is not ToolMode.NAMED,
        )

    def rendered(self, conversation: Conversation) -> Prompt:
        """Raises Unsupported for a model without chats."""
        if not self.chats:
            raise Unsupported("this model is served without chats; use /v1/completions", field="model")
        return self.form.prompt(conversation)

    def text(self, conversation: Conversation) -> str:
        """The prompt that `prompt` would make, as readable text."""
        return self.rendered(conversation).text()

    def count(self, conversation: Conversation) -> int:
        """The number of tokens of the prompt that `prompt` would make."""
        rendered = self.rendered(conversation)
        return len(self.vocabulary.encode_prompt(rendered.segments))

    def completion(self, ids: Sequence[int], given: Mapping[str, Any]) -> PreparedPrompt:
        """A prompt without a chat. Raises InvalidValue for ids outside the vocabulary."""
        if not ids:
            raise InvalidValue("must not be empty", field="prompt")
        if min(ids) < 0 or max(ids) >= self.vocabulary.size:
            raise InvalidValue(f"ids must be between 0 and {self.vocabulary.size - 1}", field="prompt")
        sampling = self._sampling(given, len(ids), "prompt")
        return PreparedPrompt(ids=ids, sampling=sampling, stops=tuple(sampling.get("stop", ())))

    def parser(self, prompt: PreparedPrompt) -> Parser:
        if prompt.first_call is None:
            return TextParser(self.vocabulary, prompt.stops)
        return ToolCallParser(
            self.vocabulary,
            tools=prompt.tools,
            first_index=prompt.first_call,
            parallel=prompt.parallel,
            stops=prompt.stops,
        )

    def _sampling(self, given: Mapping[str, Any], prompt_tokens: int, field: str) -> dict[str, Any]:
        ends = {*given.get("stop_token_ids", ()), *self.vocabulary.stop_ids}
        sampling = {**self.defaults, **given, "stop_token_ids": sorted(ends)}
        core_sampling.fit_to_engine(sampling, prompt_tokens=prompt_tokens, room=self.room, field=field)
        return sampling


def bounds(config: EngineConfig, form: Form) -> Bounds:
    """The bounds of answers, by the engine's preset, with keys in the order in which the prompt shows them."""
    chosen = Bounds.demo() if config.preset.grammar == "demo" else Bounds.production()
    return replace(chosen, sort_keys=form.sort_tool_keys)


def recommended(checkpoint: Path) -> dict[str, Any]:
    """The sampling parameters in the checkpoint's generation_config.json. K2's recommends temperature 0.6."""
    path = checkpoint / "generation_config.json"
    if not path.is_file():
        return {}
    data = json.loads(path.read_text("utf-8"))
    return core_sampling.read_parameters({name: data[name] for name in RECOMMENDED if data.get(name) is not None})
