"""Tool calls asked of a served ensemble by published clients, and what is wrong with the answers.

httpx speaks `generate` and `generate_stream`, tritonclient speaks gRPC; jsonschema judges. A model with random weights
opens no section of its own accord: under `auto` a bias on `<|tool_calls_section_begin|>` makes it, and the grammar is
the one that every `auto` request has.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton_grpc

from tests.server.running import Server
from tests.support.schemas import problems

PATIENCE_SECONDS = 300.0
# The most that the API takes as a bias: the first token is the marker.
FORCED = 100.0
# With the demo checkpoints' logits some text goes before the marker.
NUDGED = 10.0
Body = dict[str, Any]
Parts = list[dict[str, Any]]


def generate(server: Server, body: Body) -> Parts:
    answer = httpx.post(server.generate(), json=body, timeout=PATIENCE_SECONDS)
    return [answer.json()]


def generate_stream(server: Server, body: Body) -> Parts:
    address = server.generate(stream=True)
    answer = httpx.post(address, json={**body, "stream": True}, timeout=PATIENCE_SECONDS)
    # As bytes: httpx's own lines also end at U+2028 and its like, which JSON may hold as they are.
    return [json.loads(line.removeprefix(b"data: ")) for line in answer.content.split(b"\n") if line]


def grpc_stream(server: Server, body: Body) -> Parts:
    results: queue.Queue[tuple[Any, Any]] = queue.Queue()
    parts: Parts = []
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        client.start_stream(lambda result, error: results.put((result, error)))
        client.async_stream_infer("kimi_k2", list(_tensors({**body, "stream": True})))
        while True:
            result, error = results.get(timeout=PATIENCE_SECONDS)
            if error is not None:
                return [{"error": str(error)}]
            values = {each.name: result.as_numpy(each.name)[0] for each in result.get_response().outputs}
            parts.append({name: bytes(value).decode() for name, value in values.items()})
            if result.get_response().parameters["triton_final_response"].bool_param:
                return parts


def _tensors(body: Body) -> Iterator[Any]:
    for name, value in body.items():
        if isinstance(value, str):
            data, kind = np.array([value.encode()], dtype=np.object_), "BYTES"
        elif isinstance(value, bool):
            data, kind = np.array([value]), "BOOL"
        else:
            data, kind = np.array([value], dtype=np.int32), "INT32"
        tensor = triton_grpc.InferInput(name, data.shape, kind)
        tensor.set_data_from_numpy(data)
        yield tensor


@dataclass(frozen=True, slots=True)
class Form:
    """How a call is asked for. `bias` is added to the section marker's logit."""

    name: str
    choice: str
    ask: Callable[[Server, Body], Parts]
    bias: float = 0.0

    @property
    def text_first(self) -> bool:
        """Whether text may come before the section, and instead of it."""
        return 0 < self.bias < FORCED


FORMS = (
    Form("required, generate", "required", generate),
    Form("required, generate_stream", "required", generate_stream),
    Form("required, gRPC", "required", grpc_stream),
    Form("auto, generate", "auto", generate, FORCED),
    Form("auto, generate_stream", "auto", generate_stream, FORCED),
    Form("auto, gRPC", "auto", grpc_stream, FORCED),
    Form("auto after text, generate_stream", "auto", generate_stream, NUDGED),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer; `calls` are (name, arguments). `wrong` is empty unless it breaks a promise. One that ran out of
    tokens breaks none: it is only `finish: length`.
    """

    schema: str
    form: str
    finish: str
    calls: tuple[tuple[str, str], ...]
    tokens: int
    seconds: float
    content: str
    wrong: tuple[str, ...]


def tool(name: str, schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "Look.", "parameters": schema}}


def request(schema: Any, form: Form, *, name: str, marker: int, max_tokens: int) -> Body:
    """`marker` is the id of `<|tool_calls_section_begin|>`."""
    sampling: dict[str, Any] = {"temperature": 1.0}
    if form.bias:
        sampling["logit_bias"] = {str(marker): form.bias}
    return {
        "messages": json.dumps([{"role": "user", "content": "Call it."}]),
        "tools": json.dumps([tool(name, schema)]),
        "tool_choice": form.choice,
        "max_tokens": max_tokens,
        "sampling_parameters": json.dumps(sampling),
    }


def ask_all(
    server: Server,
    schemas: Mapping[str, Any],
    forms: tuple[Form, ...],
    *,
    marker: int,
    concurrency: int,
    max_tokens: int = 8_000,
    name: str = "look",
) -> list[Outcome]:
    """Every schema as the one tool `name`, in every form, `concurrency` at once."""

    def one(job: tuple[str, Form]) -> Outcome:
        title, form = job
        body = request(schemas[title], form, name=name, marker=marker, max_tokens=max_tokens)
        begin = time.monotonic()
        try:
            parts = form.ask(server, body)
        except (httpx.HTTPError, queue.Empty) as error:
            parts = [{"error": type(error).__name__}]
        return read(title, form, name, schemas[title], parts, time.monotonic() - begin)

    jobs = [(title, form) for form in forms for title in schemas]
    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(one, jobs))


def read(title: str, form: Form, name: str, schema: Any, parts: Parts, seconds: float = 0.0) -> Outcome:
    """Put an answer together as a client does, and hold it to every promise."""
    errors = tuple(str(part["error"]) for part in parts if "error" in part)
    if errors:
        return Outcome(title, form.name, "error", (), 0, seconds, "", errors)
    finishes = [part["finish_reason"] for part in parts if "finish_reason" in part]
    content = "".join(part["text_output"] for part in parts)
    tokens = json.loads(parts[-1]["usage"])["completion_tokens"] if "usage" in parts[-1] else 0
    finish = finishes[0] if len(finishes) == 1 else f"{len(finishes)} finish reasons"
    deltas = [delta for part in parts for delta in json.loads(part.get("tool_calls", "[]"))]
    calls, wrong = put_together(deltas)
    if finish != "length":
        wrong += list(_broken(form, name, schema, content, calls, finish))
    made = tuple((call["name"], call["arguments"]) for call in calls)
    return Outcome(title, form.name, finish, made, tokens, seconds, content, tuple(wrong))


def put_together(deltas: Parts) -> tuple[list[dict[str, str]], list[str]]:
    """Calls of whole answers or of deltas in order, and what is wrong with the deltas themselves."""
    calls: list[dict[str, str]] = []
    wrong = []
    for delta in deltas:
        index = delta.get("index", len(calls))
        function = delta["function"]
        if "id" in delta:
            calls.append({"id": delta["id"], "name": function["name"], "arguments": function.get("arguments", "")})
            if index != len(calls) - 1 or delta.get("type") != "function":
                wrong.append(f"delta that begins call {len(calls) - 1} has index {index}")
        elif index != len(calls) - 1:
            wrong.append(f"delta of call {index} while call {len(calls) - 1} is open")
        else:
            calls[index]["arguments"] += function["arguments"]
    return calls, wrong


def _broken(
    form: Form, name: str, schema: Any, content: str, calls: list[dict[str, str]], finish: str
) -> Iterator[str]:
    if finish == "stop" and not calls and form.text_first:
        return
    if finish != "tool_calls" or not calls:
        yield f"ends by {finish} with {len(calls)} calls"
    if content and not form.text_first:
        yield f"content {content!r}"
    if "<|" in content:
        yield "a marker in content"
    for index, call in enumerate(calls):
        if (call["id"], call["name"]) != (f"functions.{name}:{index}", name):
            yield f"call {index} is {call['id']!r} of {call['name']!r}"
        try:
            value = json.loads(call["arguments"])
        except ValueError as error:
            yield f"call {index}: {error}: {call['arguments']!r}"
            continue
        for problem in problems(schema, value) if isinstance(value, dict) else ["no object"]:
            yield f"call {index}: {problem}: {call['arguments']!r}"
