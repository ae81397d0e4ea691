"""Puts loads of streamed requests on a model over Triton's gRPC, through tritonclient.

The requests share up to STREAMS streams: one for each would cost a thread each, and the client shares the machine with
the server. Requests are encoded before the first is sent.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy
import tritonclient.grpc as triton

from tests.bench.serving.load import Answer, Load, serve, starts

STREAMS = 4
GIVE_UP_SECONDS = 300.0
TYPES = {bool: "BOOL", int: "INT32", float: "FP32", str: "BYTES", list: "INT32"}
KINDS = {"BOOL": numpy.bool_, "INT32": numpy.int32, "FP32": numpy.float32, "BYTES": numpy.object_}


class Stream:
    """One request under way: fed with responses on its stream's own thread."""

    def __init__(self) -> None:
        self.began = 0.0
        self._first = self._last = 0.0
        self._gaps: list[float] = []
        self._tokens = self._events = self._prompt = self._messages = self._tensors = 0

    def feed(self, response: Any) -> Answer | None:
        """The answer, with its last response."""
        now = time.perf_counter()
        raw = {each.name: data for each, data in zip(response.outputs, response.raw_output_contents, strict=True)}
        self._messages += 1
        self._tensors += len(raw)
        ids = len(raw.get("output_ids", b"")) // 4
        self._tokens += ids
        # A string's bytes begin with their length.
        if ids or len(raw.get("text_output", b"")) > 4 or len(raw.get("tool_calls", b"")) > 4:
            if self._events:
                self._gaps.append(now - self._last)
            else:
                self._first = now - self.began
            self._last = now
            self._events += 1
        if "usage" in raw:
            usage = json.loads(raw["usage"][4:])
            self._tokens, self._prompt = usage["completion_tokens"], usage["prompt_tokens"]
        if "num_input_tokens" in raw:
            self._prompt = int.from_bytes(raw["num_input_tokens"][:4], "little")
        if not raw.get("finish_reason"):
            return None
        return Answer(self._first, self._gaps, self._tokens, self._events, self._prompt, self._messages, self._tensors)


def inputs(body: dict[str, Any]) -> list[Any]:
    found = []
    for name, value in body.items():
        kind = TYPES[type(value)]
        data = value if isinstance(value, list) else [value]
        array = numpy.array([each.encode() for each in data] if kind == "BYTES" else data, dtype=KINDS[kind])
        tensor = triton.InferInput(name, [len(data)], kind)
        tensor.set_data_from_numpy(array)
        found.append(tensor)
    return found


def run(load: Load) -> list[Answer]:
    waiting = iter([inputs(body) for body in load.requests])
    streams: dict[str, Stream] = {}
    ended: queue.SimpleQueue[Answer | str] = queue.SimpleQueue()

    def take(result: Any, error: Any) -> None:
        if error is not None:
            ended.put(str(error))
            return
        response = result.get_response()
        if stream := streams.get(response.id):
            answer = stream.feed(response)
            if answer is not None:
                del streams[response.id]
                ended.put(answer)

    clients = [triton.InferenceServerClient(load.address) for _ in range(min(STREAMS, load.concurrency))]
    try:
        for client in clients:
            client.start_stream(take)
        return _closed_loop(load, clients, waiting, streams, ended.get)
    finally:
        for client in clients:
            client.stop_stream(cancel_requests=True)
            client.close()


def _closed_loop(
    load: Load, clients: list[Any], waiting: Iterator[Any], streams: dict[str, Stream], ended: Callable[..., Any]
) -> list[Answer]:
    begun = 0

    def begin() -> None:
        nonlocal begun
        for tensors in waiting:
            name = str(begun)
            streams[name] = stream = Stream()
            stream.began = time.perf_counter()
            clients[begun % len(clients)].async_stream_infer(load.path, tensors, request_id=name)
            begun += 1
            return

    wait = partial(ended, timeout=GIVE_UP_SECONDS)
    for due in starts(load):
        time.sleep(max(due - time.perf_counter(), 0.0))
        begin()
    answers = []
    for _ in load.requests:
        answer = wait()
        if isinstance(answer, str):
            raise SystemExit(f"the model {load.path} answered: {answer}")
        answers.append(answer)
        begin()
    return answers


if __name__ == "__main__":
    serve(run)
