"""`POST /v1/chat/completions` and `/v1/chat/completions/render`.

A stream has, for each choice, its role, deltas as they arrive, and one chunk with an empty delta and the finish reason.
A call's name is only in its first delta. Then follow usage, if the request asks for it, and `[DONE]`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from kimi_k2_serving.chat import below
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.deltas import delta, message
from kimi_k2_serving.core.errors import InvalidValue, Unsupported
from kimi_k2_serving.core.events import Event, Finish, TextDelta
from kimi_k2_serving.core.messages import Conversation, Json
from kimi_k2_serving.core.typed_json import Object, as_flag, as_list, as_object, required
from kimi_k2_serving.frontend import fields, sse
from kimi_k2_serving.frontend.answer import Question, Step, Whole, gather_answer
from kimi_k2_serving.frontend.exchange import EventStream, LargeDocument, Reply
from kimi_k2_serving.frontend.openai.envelope import ContentLogprobs, usage
from kimi_k2_serving.frontend.origin import Origin
from kimi_k2_serving.frontend.reading import Read, Reader
from kimi_k2_serving.frontend.reports import remarks
from kimi_k2_serving.frontend.service import Call, Service

KNOWN = frozenset(
    {
        "model",
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "stream",
        "stream_options",
        "n",
        "logprobs",
        "top_logprobs",
        "modalities",
        "continue_final_message",
        "add_generation_prompt",
        *fields.SAMPLING,
    }
)
# Fields that clients send but that mean nothing to this model or server. They are accepted without effect.
IGNORED = frozenset(
    {
        "user",
        "cache_control",
        "safety_identifier",
        "metadata",
        "store",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "reasoning_effort",
        "reasoning",
        "thinking",
        "enable_thinking",
        "separate_reasoning",
        "stream_reasoning",
        "verbosity",
        "prediction",
        "skip_special_tokens",
        "spaces_between_special_tokens",
    }
)
REFUSED = {
    "functions": "is OpenAI's old form; send tools instead",
    "function_call": "is OpenAI's old form; send tool_choice instead",
    "audio": "this model writes text only",
    "web_search_options": "this server can't search the web; declare a tool instead",
    "moderation": "this server has no moderation",
    "chat_template": "this server uses only the model's own template",
    "chat_template_kwargs": "this model's template has no options",
    "echo": "the answer never repeats the prompt; /v1/chat/completions/render shows it",
    "lora_path": "this server has no adapters",
    "regex": "is not supported; use response_format or tools",
    "ebnf": "is not supported; use response_format or tools",
    "structural_tag": "is not supported; use response_format or tools",
}


@dataclass(frozen=True, slots=True)
class ChatCompletionOptions:
    """The options that shape an answer."""

    model: str
    n: int
    top_logprobs: int | None
    stream: bool
    include_usage: bool
    continuous_usage: bool


@dataclass(frozen=True, slots=True)
class ChatRequest:
    asked: ChatCompletionOptions
    conversation: Conversation
    sampling: dict[str, Any]
    origin: Origin


def read_chat_request(service: Reader, body: Json) -> ChatRequest:
    """Read a chat request. Raises leaves of InvalidRequest that name the path."""
    source = as_object(body, "body")
    fields.check_fields(source, known=KNOWN, ignored=IGNORED, refused=REFUSED)
    model = service.served(required(source, "model", ""))
    if source.get("modalities") is not None and as_list(source["modalities"], "modalities") != ["text"]:
        raise Unsupported("this model writes text only", field="modalities")
    include, continuous = fields.stream_options(source)
    conversation = read_conversation(
        messages=source.get("messages"),
        tools=source.get("tools"),
        tool_choice=source.get("tool_choice"),
        response_format=source.get("response_format"),
        parallel_tool_calls=as_flag(source.get("parallel_tool_calls"), "parallel_tool_calls", default=True),
        continue_final_message=read_continued(source),
    )
    origin = Origin()
    below.check_nested_fields(source, origin)
    sampling = fields.read_sampling(source)
    origin.seeded(sampling, heeded=service.model.heeds_seeds)
    return ChatRequest(
        asked=ChatCompletionOptions(
            model=model,
            n=fields.read_choices(source.get("n")),
            top_logprobs=fields.top_logprobs(source),
            stream=as_flag(source.get("stream"), "stream", default=False),
            include_usage=include,
            continuous_usage=continuous,
        ),
        conversation=conversation,
        sampling=sampling,
        origin=origin,
    )


def read_continued(source: Object) -> bool:
    """Read `continue_final_message`. Clients of vLLM also say that they then want no header of a new message."""
    continued = as_flag(source.get("continue_final_message"), "continue_final_message", default=False)
    path = "add_generation_prompt"
    if as_flag(source.get(path), path, default=not continued) == continued:
        raise InvalidValue("must be the opposite of continue_final_message; leave it out", field=path)
    return continued


def reading(service: Reader, body: Json) -> Read:
    request = read_chat_request(service, body)
    prompt = service.model.prompt(request.conversation, request.sampling)
    return Read(request.asked, (prompt,), service.model.enforcer.job(request.conversation), origin=request.origin)


def rendering(service: Reader, body: Json) -> Read:
    request = read_chat_request(service, body)
    prompt = service.model.prompt(request.conversation, request.sampling)
    text, ids = service.model.text(request.conversation), list(prompt.ids)
    echo = {"prompt": sse.encode_json(text), "token_ids": sse.encode_json(ids)}  # type: ignore[arg-type]
    job = service.model.enforcer.job(request.conversation)
    return Read(request.asked, (prompt,), job, echo, origin=request.origin)


async def create(service: Service, call: Call) -> Reply:
    found = await service.read(reading, call)
    request, prompt = found.request(ChatCompletionOptions), await service.prompt(found)
    question = Question((prompt,), request.n, request.stream, request.top_logprobs)
    steps = service.steps(question, call)
    writer = ChatWriter(service, request, found.origin)
    if request.stream:
        return EventStream(writer.frames(steps, question))
    if request.top_logprobs is None:
        return LargeDocument(writer.completion(await gather_answer(steps, question)))
    tokens = [ContentLogprobs(service.model.vocabulary) for _ in range(question.choices)]
    written: list[list[bytes]] = [[] for _ in tokens]

    def write(step: Step) -> None:
        if entries := tokens[step.choice].feed(step.logprobs):
            written[step.choice].append(sse.encode_members(entries))

    return LargeDocument(
        writer.completion(await gather_answer(steps, question, write), list(map(sse.list_of, written)))
    )


async def show(service: Service, call: Call) -> Reply:
    """The prompt that `create` would send to the engine, as text and as ids."""
    found = await service.read(rendering, call)
    prompt = await service.prompt(found)
    return LargeDocument(
        {
            "object": "chat.completion.render",
            "model": found.request(ChatCompletionOptions).model,
            "prompt": found.said("prompt"),
            "token_ids": found.said("token_ids"),
            "prompt_tokens": len(prompt.ids),
            "sampling_parameters": prompt.sampling,
        }
    )


class ChatWriter:
    """Writes the answer to one request in OpenAI's form."""

    def __init__(self, service: Service, request: ChatCompletionOptions, origin: Origin) -> None:
        self._origin = origin
        self._vocabulary = service.model.vocabulary
        self._request = request
        self._head: Object = {
            "id": f"chatcmpl-{service.new_uid()}",
            "created": int(service.now()),
            "model": request.model,
        }

    def completion(self, answers: Whole, logprobs: Sequence[sse.Fragments] = ()) -> dict[str, Any]:
        """The document of a whole answer. `logprobs`: one entry per choice, if the request asks for them."""
        choices: list[dict[str, Any]] = []
        for index, answer in enumerate(answers.answers):
            choice: dict[str, Any] = {
                "index": index,
                "message": message(answer),
                "logprobs": {"content": logprobs[index], "refusal": None} if logprobs else None,
                "finish_reason": answer.finish_reason.value,
            }
            choices.append(choice)
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": usage(answers.usage),
            **remarks(answers.reports, self._origin),
        }

    async def frames(self, steps: AsyncIterator[Step], question: Question) -> AsyncIterator[bytes]:
        latest: dict[int, Step] = {}
        logprobs = {choice: ContentLogprobs(self._vocabulary) for choice in range(question.choices)}
        async with aclosing(steps):  # type: ignore[type-var]
            async for step in steps:
                # Send one piece per step, because each piece costs a system call and wakes the client.
                piece = b""
                if step.choice not in latest:
                    piece += self._chunk(step, {"role": "assistant", "content": ""}, question, latest)
                latest[step.choice] = step
                wanted = self._request.top_logprobs is not None
                entries = logprobs[step.choice].feed(step.logprobs) if wanted else []
                deltas = list(merge_deltas(step.events))
                for part in deltas or ([{"content": ""}] if entries else []):
                    piece += self._chunk(step, part, question, latest, logprobs=entries)
                    entries = []
                if step.last:
                    piece += self._chunk(step, {}, question, latest, finish=True)
                if piece:
                    yield piece
        if self._request.include_usage:
            total = usage(question.usage(latest))
            yield sse.data({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": total})
        yield sse.DONE

    def _chunk(
        self,
        step: Step,
        part: Object,
        question: Question,
        latest: dict[int, Step],
        *,
        logprobs: list[Json] | None = None,
        finish: bool = False,
    ) -> bytes:
        choice: Object = {"index": step.choice, "delta": part, "logprobs": None, "finish_reason": None}
        if logprobs:
            choice["logprobs"] = {"content": logprobs, "refusal": None}
        if finish:
            choice["finish_reason"] = finish_reason(step.events)
            # Moonshot's own clients read the usage here.
            choice["usage"] = usage(step.usage)
        chunk: Object = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._request.include_usage:
            chunk["usage"] = usage(question.usage(latest)) if self._request.continuous_usage else None
        return sse.data({**chunk, **(remarks((step.report,), self._origin) if finish else {})})


def merge_deltas(events: Iterable[Event]) -> Iterable[Object]:
    """The deltas of one step. Adjacent texts become one delta."""
    text: list[str] = []
    for event in events:
        if isinstance(event, TextDelta):
            text.append(event.text)
            continue
        if (part := delta(event)) is not None:
            if text:
                yield {"content": "".join(text)}
                text = []
            yield part
    if text:
        yield {"content": "".join(text)}


def finish_reason(events: Iterable[Event]) -> str:
    return next(event.reason.value for event in events if isinstance(event, Finish))
