"""`POST /v1/completions`: continues text or token ids, without a chat template. Text never becomes control tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField
from kimi_k2_serving.core.events import TextDelta
from kimi_k2_serving.core.limits import CHOICES, PROMPT_LOGPROBS, TOP_LOGPROBS
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.tokens import TextDecoder, Vocabulary
from kimi_k2_serving.core.typed_json import Object, as_flag, as_object, is_whole, required
from kimi_k2_serving.frontend import fields, sse
from kimi_k2_serving.frontend.answer import Question, Step, Whole, gather_answer
from kimi_k2_serving.frontend.exchange import EventStream, LargeDocument, Reply
from kimi_k2_serving.frontend.openai.chat import finish_reason
from kimi_k2_serving.frontend.openai.envelope import legacy_logprobs, usage
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.reading import Read, Reader
from kimi_k2_serving.frontend.reports import remarks
from kimi_k2_serving.frontend.service import Call, Service

SAMPLING = tuple(name for name in fields.SAMPLING if name != "max_completion_tokens")
KNOWN = frozenset({"model", "prompt", "stream", "stream_options", "n", "best_of", "logprobs", "echo", *SAMPLING})
IGNORED = frozenset({"user", "safety_identifier", "metadata", "prompt_cache_key", "skip_special_tokens"})
REFUSED = {"suffix": "this model can't fill in the middle"}


@dataclass(frozen=True, slots=True)
class CompletionsOptions:
    """The options that shape an answer. `echo`: the answer begins with the prompt. `only_echo`: it has nothing else."""

    model: str
    n: int
    stream: bool
    top_logprobs: int | None
    include_usage: bool
    continuous_usage: bool
    echo: bool = False
    only_echo: bool = False


def reading(service: Reader, body: Json) -> Read:
    """Read a completions request. Raises leaves of InvalidRequest that name the path."""
    source = as_object(body, "body")
    fields.check_fields(source, known=KNOWN, ignored=IGNORED, refused=REFUSED)
    model = service.served(required(source, "model", ""))
    n = fields.read_choices(source.get("n"))
    if fields.integer(source.get("best_of"), "best_of", minimum=1, default=n) != n:
        raise InvalidValue("must equal n: this server returns all choices that it generates", field="best_of")
    top = fields.integer(source.get("logprobs"), "logprobs", minimum=0)
    if top is not None:
        TOP_LOGPROBS.check(top, field="logprobs")
    echo = as_flag(source.get("echo"), "echo", default=False)
    only_echo = echo and is_whole(source.get("max_tokens")) and source["max_tokens"] == 0
    # The engine makes at least one token, which the answer leaves out.
    sampling = fields.read_sampling({**source, "max_tokens": 1} if only_echo else source, SAMPLING)
    prompts = read_prompts(service, source.get("prompt"))
    CHOICES.check(n * len(prompts), field="prompt")
    if echo and top is not None:
        for ids in prompts:
            PROMPT_LOGPROBS.check(len(ids) * (top + 1), field="prompt")
    include, continuous = fields.stream_options(source)
    stream = as_flag(source.get("stream"), "stream", default=False)
    origin = Origin()
    origin.seeded(sampling, heeded=service.model.heeds_seeds)
    return Read(
        CompletionsOptions(model, n, stream, top, include, continuous, echo, only_echo),
        tuple(service.model.completion(ids, sampling) for ids in prompts),
        origin=origin,
    )


def read_prompts(service: Reader, value: Json) -> list[list[int]]:
    """Reads a text, token ids, or a list of either. Returns one list of ids per prompt."""
    if value is None:
        raise MissingField("is required", field="prompt")
    if isinstance(value, str):
        return [service.model.vocabulary.encode(value)]
    if not isinstance(value, list) or not value:
        raise InvalidType("must be a string, token ids, or a non-empty list of either", field="prompt")
    if all(map(is_whole, value)):
        return [list(value)]  # type: ignore[arg-type]
    CHOICES.check(len(value), field="prompt")
    prompts = []
    for i, each in enumerate(value):
        if isinstance(each, str):
            prompts.append(service.model.vocabulary.encode(each))
        elif isinstance(each, list) and all(map(is_whole, each)):
            prompts.append(list(each))  # type: ignore[arg-type]
        else:
            raise InvalidType("must be a string or token ids", field=f"prompt[{i}]")
    return prompts


async def create(service: Service, call: Call) -> Reply:
    found = await service.read(reading, call)
    request = found.request(CompletionsOptions)
    wants_prompt = request.echo and request.top_logprobs is not None
    question = Question(found.prompts, request.n, request.stream, request.top_logprobs, prompt_logprobs=wants_prompt)
    steps = service.steps(question, call)
    writer = CompletionsWriter(service, request, question, found.origin)
    if request.stream:
        return EventStream(writer.frames(steps))
    if request.top_logprobs is None:
        return LargeDocument(writer.completion(await gather_answer(steps, question)))
    written = [EncodedLogprobs(each) for each in writer.logprobs()]
    answers = await gather_answer(steps, question, lambda step: written[step.choice].feed(step))
    return LargeDocument(writer.completion(answers, [each.document() for each in written]))


class ChoiceLogprobs:
    """The log-probabilities of one choice as its steps arrive, with those of an echoed prompt before them. `first`: the
    first token of that prompt, which has no log-probability.
    """

    def __init__(self, vocabulary: Vocabulary, *, first: int | None, only_echo: bool) -> None:
        self._vocabulary = vocabulary
        self._first = first
        self._only_echo = only_echo
        self._offset = 0

    def feed(self, step: Step) -> Object:
        """The four lists for the new tokens; they may be empty."""
        new = step.prompt_logprobs if self._only_echo else (*step.prompt_logprobs, *step.logprobs)
        found: dict[str, Any] = legacy_logprobs(self._vocabulary, new, self._offset, before=self._first)
        self._first = None
        if found["tokens"]:
            self._offset = found["text_offset"][-1] + len(found["tokens"][-1])
        return found


class EncodedLogprobs:
    """The log-probabilities of a whole answer, encoded as they arrive."""

    def __init__(self, source: ChoiceLogprobs) -> None:
        self._source = source
        self._lists: dict[str, list[bytes]] = {
            name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }

    def feed(self, step: Step) -> None:
        found: dict[str, Any] = self._source.feed(step)
        for name, pieces in self._lists.items():
            if found[name]:
                pieces.append(sse.encode_members(found[name]))

    def document(self) -> dict[str, sse.Fragments]:
        return {name: sse.list_of(pieces) for name, pieces in self._lists.items()}


class CompletionsWriter:
    def __init__(self, service: Service, request: CompletionsOptions, question: Question, origin: Origin) -> None:
        self._origin = origin
        self._vocabulary = service.model.vocabulary
        self._request = request
        self._question = question
        self._echoes = [echoed(self._vocabulary, prompt.ids) if request.echo else "" for prompt in question.prompts]
        self._head: Object = {
            "id": f"cmpl-{service.new_uid()}",
            "object": "text_completion",
            "created": int(service.now()),
            "model": request.model,
        }

    def logprobs(self) -> list[ChoiceLogprobs]:
        request, question = self._request, self._question
        firsts = [question.prompts[choice // question.n].ids[0] for choice in range(question.choices)]
        return [
            ChoiceLogprobs(self._vocabulary, first=first if request.echo else None, only_echo=request.only_echo)
            for first in firsts
        ]

    def completion(self, answers: Whole, logprobs: Sequence[dict[str, sse.Fragments]] = ()) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        for index, answer in enumerate(answers.answers):
            text = "" if self._request.only_echo else answer.content
            choices.append(
                {
                    "index": index,
                    "text": self._echo(index) + text,
                    "logprobs": logprobs[index] if logprobs else None,
                    "finish_reason": "length" if self._request.only_echo else answer.finish_reason.value,
                }
            )
        notices = remarks((None,), self._origin)
        return {**self._head, "choices": choices, "usage": usage(answers.usage), **notices}

    async def frames(self, steps: AsyncIterator[Step]) -> AsyncIterator[bytes]:
        request, question = self._request, self._question
        latest: dict[int, Step] = {}
        written = self.logprobs()
        async with aclosing(steps):  # type: ignore[type-var]
            async for step in steps:
                text = "" if step.choice in latest else self._echo(step.choice)
                latest[step.choice] = step
                if not request.only_echo:
                    text += "".join(event.text for event in step.events if isinstance(event, TextDelta))
                logprobs = None if question.top_logprobs is None else written[step.choice].feed(step)
                if text or step.last or (logprobs and logprobs["tokens"]):
                    yield self._chunk(step, text, logprobs, latest)
        if request.include_usage:
            yield sse.data({**self._head, "choices": [], "usage": usage(question.usage(latest))})
        yield sse.DONE

    def _chunk(self, step: Step, text: str, logprobs: Object | None, latest: dict[int, Step]) -> bytes:
        request = self._request
        finish = ("length" if request.only_echo else finish_reason(step.events)) if step.last else None
        choice: Object = {"index": step.choice, "text": text, "logprobs": logprobs, "finish_reason": finish}
        chunk: Object = {**self._head, "choices": [choice]}
        if request.include_usage:
            chunk["usage"] = usage(self._question.usage(latest)) if request.continuous_usage else None
        return sse.data({**chunk, **(remarks((None,), self._origin) if step.last else {})})

    def _echo(self, choice: int) -> str:
        return self._echoes[choice // self._question.n]


def echoed(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """The prompt as text, decoded as an answer with the same ids would be."""
    decoder = TextDecoder(vocabulary)
    return decoder.feed(ids) + decoder.finish()
