"""`POST /v1/completions`: text or token ids in, text out, no chat template. Text never becomes control tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField
from kimi_k2_serving.core.events import TextDelta
from kimi_k2_serving.core.limits import CHOICES, TOP_LOGPROBS
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object, as_flag, as_object, is_whole, required
from kimi_k2_serving.frontend import fields, sse
from kimi_k2_serving.frontend.answer import Question, Step, Whole, gather_answer
from kimi_k2_serving.frontend.exchange import EventStream, LargeDocument, Reply
from kimi_k2_serving.frontend.openai.chat import finish_reason
from kimi_k2_serving.frontend.openai.envelope import LegacyLogprobs, legacy_logprobs, usage
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.reading import Read, Reader
from kimi_k2_serving.frontend.reports import remarks
from kimi_k2_serving.frontend.service import Call, Service

SAMPLING = tuple(name for name in fields.SAMPLING if name != "max_completion_tokens")
KNOWN = frozenset({"model", "prompt", "stream", "stream_options", "n", "best_of", "logprobs", *SAMPLING})
IGNORED = frozenset({"user", "safety_identifier", "metadata", "prompt_cache_key", "skip_special_tokens"})
REFUSED = {
    "suffix": "this model can't fill in the middle",
    "echo": "the answer never repeats the prompt",
}


@dataclass(frozen=True, slots=True)
class CompletionsOptions:
    """The options that shape an answer."""

    model: str
    n: int
    stream: bool
    top_logprobs: int | None
    include_usage: bool
    continuous_usage: bool


def reading(service: Reader, body: Json) -> Read:
    """Raises leaves of InvalidRequest that name the path."""
    source = as_object(body, "body")
    fields.check_fields(source, known=KNOWN, ignored=IGNORED, refused=REFUSED)
    model = service.served(required(source, "model", ""))
    n = fields.read_choices(source.get("n"))
    if fields.integer(source.get("best_of"), "best_of", minimum=1, default=n) != n:
        raise InvalidValue("must equal n: this server returns all choices that it generates", field="best_of")
    top = fields.integer(source.get("logprobs"), "logprobs", minimum=0)
    if top is not None:
        TOP_LOGPROBS.check(top, field="logprobs")
    sampling = fields.read_sampling(source, SAMPLING)
    prompts = read_prompts(service, source.get("prompt"))
    CHOICES.check(n * len(prompts), field="prompt")
    include, continuous = fields.stream_options(source)
    stream = as_flag(source.get("stream"), "stream", default=False)
    origin = Origin()
    origin.seeded(sampling, heeded=service.model.heeds_seeds)
    return Read(
        CompletionsOptions(model, n, stream, top, include, continuous),
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
    question = Question(found.prompts, request.n, request.stream, request.top_logprobs)
    steps = service.steps(question, call)
    writer = CompletionsWriter(service, request, question, found.origin)
    if request.stream:
        return EventStream(writer.frames(steps))
    if request.top_logprobs is None:
        return LargeDocument(writer.completion(await gather_answer(steps, question)))
    written = [LegacyLogprobs(service.model.vocabulary) for _ in range(question.choices)]
    answers = await gather_answer(steps, question, lambda step: written[step.choice].feed(step.logprobs))
    return LargeDocument(writer.completion(answers, [each.document() for each in written]))


class CompletionsWriter:
    def __init__(self, service: Service, request: CompletionsOptions, question: Question, origin: Origin) -> None:
        self._origin = origin
        self._vocabulary = service.model.vocabulary
        self._request = request
        self._question = question
        self._head: Object = {
            "id": f"cmpl-{service.new_uid()}",
            "object": "text_completion",
            "created": int(service.now()),
            "model": request.model,
        }

    def completion(self, answers: Whole, logprobs: Sequence[dict[str, sse.Fragments]] = ()) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        for index, answer in enumerate(answers.answers):
            choices.append(
                {
                    "index": index,
                    "text": answer.content,
                    "logprobs": logprobs[index] if logprobs else None,
                    "finish_reason": answer.finish_reason.value,
                }
            )
        notices = remarks((None,), self._origin)
        return {**self._head, "choices": choices, "usage": usage(answers.usage), **notices}

    async def frames(self, steps: AsyncIterator[Step]) -> AsyncIterator[bytes]:
        request, question = self._request, self._question
        latest: dict[int, Step] = {}
        offsets = [0] * question.choices
        async with aclosing(steps):  # type: ignore[type-var]
            async for step in steps:
                latest[step.choice] = step
                text = "".join(event.text for event in step.events if isinstance(event, TextDelta))
                logprobs = None
                if question.top_logprobs is not None:
                    logprobs = legacy_logprobs(self._vocabulary, step.logprobs, offsets[step.choice])
                offsets[step.choice] += len(text)
                if not (text or step.last or (logprobs and step.logprobs)):
                    continue
                choice: Object = {
                    "index": step.choice,
                    "text": text,
                    "logprobs": logprobs,
                    "finish_reason": finish_reason(step.events) if step.last else None,
                }
                chunk: Object = {**self._head, "choices": [choice]}
                if request.include_usage:
                    chunk["usage"] = usage(question.usage(latest)) if request.continuous_usage else None
                yield sse.data({**chunk, **(remarks((None,), self._origin) if step.last else {})})
        if request.include_usage:
            yield sse.data({**self._head, "choices": [], "usage": usage(question.usage(latest))})
        yield sse.DONE
