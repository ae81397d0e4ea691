"""Puts loads of streamed HTTP requests on a server, with as few instructions as it can: it shares the machine with it.

One epoll loop over plain sockets. It parses no event: it counts marks in the bytes, and reads the numbers of `usage`
from each answer's end. All requests are encoded before the first is sent. Every request has a connection of its own.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections.abc import Iterator

from tests.bench.serving.load import Answer, Load, serve, starts

# What an event with something of the answer contains, in OpenAI's and in Triton's streams, before a non-empty string.
OPENAI = (b'"content":"', b'"arguments":"')
TRITON = (b'"text_output":"', b'"tool_calls":"')
# Longer than a mark and the character after it.
CARRY_BYTES = 24
TAIL_BYTES = 2048
HEAD_BYTES = 512
GIVE_UP_SECONDS = 300.0


class Counter:
    """Counts the events with content in a stream of bytes, however it is split."""

    def __init__(self, marks: tuple[bytes, ...]) -> None:
        self._marks = marks
        self._carry = b""

    def feed(self, data: bytes) -> int:
        """How many end in `data`."""
        text = self._carry + data
        found = count(text, self._marks) - count(self._carry, self._marks)
        self._carry = text[-CARRY_BYTES:]
        return found


class Stream:
    """One request under way."""

    def __init__(self, address: tuple[str, int], data: bytes, marks: tuple[bytes, ...]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._began = self._last = time.perf_counter()
        self.socket.sendall(data)
        self.socket.setblocking(False)
        self._counter = Counter(marks)
        self._tail = self._head = b""
        self._first = 0.0
        self._events = 0
        self._gaps: list[float] = []

    def feed(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self._events and len(self._head) < HEAD_BYTES:
            self._head += data
        found = self._counter.feed(data)
        if found:
            if self._events:
                self._gaps.append(now - self._last)
            else:
                self._first = now - self._began
            self._events += found
            self._last = now
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def answer(self) -> Answer:
        self.socket.close()
        if b" 200 " not in self._head[:16]:
            raise SystemExit(f"the server answered {self._head[:600]!r}")
        tokens, prompt = number(self._tail, b"completion_tokens"), number(self._tail, b"prompt_tokens")
        if not tokens or not self._events:
            raise SystemExit(f"an answer without usage or content ended with {self._tail[-600:]!r}")
        return Answer(self._first, self._gaps, tokens, self._events, prompt)


def count(text: bytes, marks: tuple[bytes, ...]) -> int:
    """How often a mark is followed by a character other than the quote that ends an empty string."""
    return sum(text.count(mark, 0, len(text) - 1) - text.count(mark + b'"') for mark in marks)


def number(text: bytes, name: bytes) -> int:
    """The value of `name` where it occurs last in JSON, which may be inside a JSON string; 0 if it has none."""
    found = re.findall(name + rb'\\?":\s*(\d+)', text)
    return int(found[-1]) if found else 0


def encoded(load: Load) -> list[bytes]:
    def one(body: dict[str, object]) -> bytes:
        data = json.dumps(body).encode()
        head = (
            f"POST {load.path} HTTP/1.1\r\nhost: {load.address}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data

    return [one(body) for body in load.requests]


def run(load: Load) -> list[Answer]:
    host, _, port = load.address.rpartition(":")
    address = (host, int(port))
    waiting: Iterator[bytes] = iter(encoded(load))
    marks = TRITON if "generate_stream" in load.path else OPENAI
    answers: list[Answer] = []
    with selectors.EpollSelector() as selector:

        def begin() -> None:
            for data in waiting:
                stream = Stream(address, data, marks)
                selector.register(stream.socket, selectors.EVENT_READ, stream)
                return

        dues = starts(load)
        due = next(dues, None)
        while due is not None or selector.get_map():
            while due is not None and time.perf_counter() >= due:
                begin()
                due = next(dues, None)
            if due is None and not selector.get_map():
                break
            pause = GIVE_UP_SECONDS if due is None else max(due - time.perf_counter(), 0.0)
            ready = selector.select(pause)
            if not ready and due is None:
                raise SystemExit(f"no byte came within {GIVE_UP_SECONDS:g} s")
            for key, _ in ready:
                stream: Stream = key.data
                if data := stream.socket.recv(1 << 16):
                    stream.feed(data)
                else:
                    selector.unregister(stream.socket)
                    answers.append(stream.answer())
                    begin()
    return answers


if __name__ == "__main__":
    serve(run)
