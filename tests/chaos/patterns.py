"""One slow stream beside clients whose schemas are small, new and dear to compile: its gaps, and how long a cheap new
schema waits meanwhile.

What such a request costs beside its grammar (its prompt, its answer) is kept small: a few dozen tokens, and one more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from typing import Any

from tests.chaos.attacks import ALONE_SECONDS, GAP_SECONDS, Door, Watch, post, stream
from tests.chaos.row import Row

# For a cheap new schema beside them; alone it takes some 0.3 s with its prompt and its token.
CHEAP_SECONDS = 2.0
CHEAP = 3
_LETTERS = "abcdefghijklmnopqrstuvw"


def dear(door: Door, number: int) -> bytes:
    """A text whose nth character from its end is a certain one: an automaton of 2^n states behind 20 characters."""
    letter, length = _LETTERS[number % len(_LETTERS)], 7 + number % 3
    return _asking(door, number, f"p{number}", {"type": "string", "pattern": f"^[a-w]*{letter}[a-w]{{{length}}}$"})


def cheap(door: Door, number: int) -> bytes:
    return _asking(door, number, f"n{number}", {"type": "integer"})


def _asking(door: Door, number: int, name: str, schema: dict[str, Any]) -> bytes:
    parameters = {"type": "object", "properties": {name: schema}}
    function = {"type": "function", "function": {"name": f"f{number}", "parameters": parameters}}
    return door.body('[{"role":"user","content":"hi"}]', tools=[function])


def name(count: int) -> str:
    return f"{count} clients with dear patterns"


def crowd(door: Door, count: int, *, slack: float = 1.0) -> Row:
    watch, over, waits = Watch(), threading.Event(), list[float]()
    streaming = threading.Thread(target=stream, args=(door, watch, over))
    clients = [threading.Thread(target=_client, args=(door, dear(door, number), watch)) for number in range(count)]
    with contextlib.ExitStack() as stack:
        stack.callback(streaming.join)
        stack.callback(over.set)
        streaming.start()
        time.sleep(1)
        begin = time.monotonic()
        time.sleep(ALONE_SECONDS)
        middle = time.monotonic()
        for client in clients:
            client.start()
        for number in range(CHEAP):
            time.sleep(0.5)
            asked = time.monotonic()
            watch.statuses[str(post(door, cheap(door, number)))] += 1
            waits.append(time.monotonic() - asked)
        for client in clients:
            client.join()
        end = time.monotonic()
    alone, gap = watch.gap(begin, middle), watch.gap(middle, end)
    measured = (
        f"largest gap {alone * 1e3:.0f} -> {gap * 1e3:.0f} ms in {end - middle:.0f} s, a cheap new schema at most"
    )
    row = Row(name(count), 1, watch.statuses, f"{measured} {max(waits):.1f} s")
    row.expect(watch.statuses == Counter({"200": count + CHEAP}), "each is answered")
    row.expect(gap - alone <= GAP_SECONDS * slack, f"no gap of more than {GAP_SECONDS} s beyond the stream alone")
    row.expect(max(waits) <= CHEAP_SECONDS * slack, f"a cheap new schema within {CHEAP_SECONDS} s")
    return row


def _client(door: Door, data: bytes, watch: Watch) -> None:
    watch.statuses[str(post(door, data))] += 1
