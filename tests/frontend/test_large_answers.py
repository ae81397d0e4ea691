"""An answer as large as a client can ask for is read, written and sent in slices: the loop is everybody's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    Event,
    Finish,
    FinishReason,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine.port import Chunk, End, EndReason, Generation, TokenLogprob, TokenUsage
from kimi_k2_serving.frontend import sse
from kimi_k2_serving.frontend.answer import Gathered
from kimi_k2_serving.frontend.app import create_app
from kimi_k2_serving.frontend.service import Service
from tests.frontend.asking import ANTHROPIC_LOOK, LOOK, chat, messages
from tests.frontend.scripted import ScriptedEngine
from tests.support.enforcer import chat_model

pytestmark = pytest.mark.anyio

IDS = 120_000
CONTEXT = 2 * IDS
# Of the loop's own processor time in one turn. Measured: 1 to 3 ms here, and 60 to 1,000 ms all at once.
SECONDS = 0.02
PATH = "/v1/chat/completions"


class LargeEngine(ScriptedEngine):
    """A whole answer as one chunk, as the engine model gives it; a stream in small ones."""

    ids: tuple[int, ...] = ()

    async def generate(self, run: Generation) -> AsyncIterator[Chunk]:
        self.runs.append(run)
        size = 16 if run.stream else len(self.ids)
        for start in range(0, len(self.ids), size):
            ids = self.ids[start : start + size]
            last = start + size >= len(self.ids)
            top = tuple((other, -0.5) for other in range(run.top_logprobs or 0))
            logprobs = tuple(TokenLogprob(token, -0.25, top) for token in ids) if run.top_logprobs is not None else ()
            yield Chunk(ids, "", TokenUsage(1, 1, 0), End(EndReason.STOP) if last else None, logprobs)
            await asyncio.sleep(0)


async def longest_turn(service: Service, path: str, body: dict[str, Any]) -> tuple[float, Any]:
    """The processor time of the loop's longest turn, and the answer."""
    sent: list[bytes] = []
    longest = 0.0
    asked = False

    async def receive() -> Any:
        nonlocal asked
        if asked:
            await asyncio.sleep(3600)
        asked = True
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def watch() -> None:
        nonlocal longest
        while True:
            begin = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - begin)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    app = create_app(service)
    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    await app(scope, receive, send)
    watching.cancel()
    return longest, b"".join(sent)


def calls(vocabulary: Vocabulary, arguments: str) -> list[int]:
    control, encode = vocabulary.control, vocabulary.encode
    ids = [control("<|tool_calls_section_begin|>"), control("<|tool_call_begin|>"), *encode("functions.look:0")]
    ids += [control("<|tool_call_argument_begin|>"), *encode(arguments), control("<|tool_call_end|>")]
    return [*ids, control("<|tool_calls_section_end|>")]


@pytest.fixture
def large(small_vocabulary: Vocabulary) -> Callable[[Sequence[int]], Service]:
    def make(ids: Sequence[int]) -> Service:
        engine = LargeEngine(small_vocabulary)
        engine.ids = tuple(ids)
        return Service(chat_model(small_vocabulary, context=CONTEXT), engine)

    return make


ARGUMENTS = '{"city":[' + ",".join(['{"a":"\u2028"}'] * (IDS // 12)) + "]}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, chat("x", stop=["thinner"])),
        (PATH, chat("x", n=2)),
        ("/v1/completions", {"model": "kimi_k2", "prompt": "x"}),
        ("/v1/responses", {"model": "kimi_k2", "input": "x"}),
        ("/v1/responses", {"model": "kimi_k2", "input": "x", "stream": True}),
        ("/v1/messages", messages("x") | {"max_tokens": IDS + 10}),
    ],
)
async def test_no_turn_of_the_loop_is_long_with_the_longest_text(
    large: Callable[[Sequence[int]], Service], small_vocabulary: Vocabulary, path: str, body: dict[str, Any]
) -> None:
    ids = (small_vocabulary.encode('the thin "in" er\n') * IDS)[:IDS]
    longest, answer = await longest_turn(large(ids), path, body)
    assert longest < SECONDS
    assert len(answer) > len(ids)


@pytest.mark.parametrize(
    ("path", "body"), [(PATH, chat("x", tools=[LOOK])), ("/v1/messages", messages("x", tools=[ANTHROPIC_LOOK]))]
)
async def test_no_turn_of_the_loop_is_long_with_the_largest_arguments(
    large: Callable[[Sequence[int]], Service], small_vocabulary: Vocabulary, path: str, body: dict[str, Any]
) -> None:
    service = large(calls(small_vocabulary, ARGUMENTS))
    longest, answer = await longest_turn(service, path, body | {"max_tokens": CONTEXT - 1000})
    assert longest < SECONDS
    document = json.loads(answer)
    if path == PATH:
        assert document["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS
    else:
        assert document["content"][0]["input"] == json.loads(ARGUMENTS)
    assert "\u2028".encode() not in answer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, chat("x", logprobs=True, top_logprobs=20)),
        ("/v1/completions", {"model": "kimi_k2", "prompt": "x", "logprobs": 20}),
    ],
)
async def test_log_probabilities_of_a_whole_answer_come_in_slices_and_are_all_there(
    large: Callable[[Sequence[int]], Service], small_vocabulary: Vocabulary, path: str, body: dict[str, Any]
) -> None:
    ids = (small_vocabulary.encode("the thin er") * 4000)[:4000]
    service = large(ids)
    longest, answer = await longest_turn(service, path, body)
    assert longest < SECONDS
    # One message of the engine with all of them would be the largest that there is.
    engine = service.engine
    assert isinstance(engine, LargeEngine)
    assert engine.runs[0].stream
    (choice,) = json.loads(answer)["choices"]
    if path == PATH:
        assert len(choice["logprobs"]["content"]) == len(ids)
        assert "".join(each["token"] for each in choice["logprobs"]["content"]) == choice["message"]["content"]
    else:
        text = choice["text"]
        assert "".join(choice["logprobs"]["tokens"]) == text
        for token, offset in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True):
            assert text[offset : offset + len(token)] == token


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        {"a": [], "b": {}, "c": [1, {"d": None}], "é": "\u2028"},
        {"a": "x\u2029" * sse.PART, "b": sse.verbatim('{"z":"\u2028"}')},
        "\ud800",
    ],
)
def test_a_document_in_pieces_is_the_document(value: Any) -> None:
    whole = json.loads(b"".join(sse.encode_pieces(value)))
    assert whole == json.loads(sse.encode_json(value))
    assert all(len(piece) <= 8 * sse.PART for piece in sse.encode_pieces(value))


def test_fragments_are_one_list() -> None:
    written = sse.list_of([sse.encode_members([1, 2]), sse.encode_members(["a"])])
    assert b"".join(sse.encode_pieces({"a": written, "b": sse.list_of([])})) == b'{"a":[1,2,"a"],"b":[]}'


def test_neighbouring_pieces_are_joined_and_nothing_else() -> None:
    gathered = Gathered()
    given: list[Event] = [
        *(TextDelta("a"), TextDelta("b"), ToolCallStart(0, "i", "f"), ArgumentsDelta(0, "{"), ArgumentsDelta(0, "}")),
        *(ToolCallEnd(0, True), TextDelta("c"), Finish(FinishReason.STOP, None)),
    ]
    for event in given:
        gathered.feed([event])
    assert gathered.events() == (
        *(TextDelta("ab"), ToolCallStart(0, "i", "f"), ArgumentsDelta(0, "{}"), ToolCallEnd(0, True)),
        *(TextDelta("c"), Finish(FinishReason.STOP, None)),
    )
