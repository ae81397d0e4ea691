"""One slow stream beside clients who send what is dear to read: its largest gap, and how soon the server answers.

Everything here blocks in threads of its own, so that no client waits for another one's sending.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

from tests.chaos.row import Row

# Beyond the largest gap of the same stream alone, and for /health/live, on a machine that does nothing else.
GAP_SECONDS = 0.5
LIVE_SECONDS = 0.2
ALONE_SECONDS = 4.0
ATTACK_SECONDS = 6.0
# A small request beside the attack, sent to the end and waited for: the engine's turn and a new grammar's included.
SMALL_SECONDS = 2.0
# The demo's markers: random weights draw one now and then, and what follows is a call's header, of which nothing is
# sent before its end.
NO_CALLS = {str(4096 + place): -100 for place in range(11, 16)}
USER = '[{"role":"user","content":"Tell me something."}]'


@dataclass(frozen=True, slots=True)
class Door:
    """A way in. `path` takes chats and streams them where asked to; `live` is its cheapest path, and promised to answer
    where it is ours; `processes`: by which words of a command line those are known that read for it.
    """

    url: str
    path: str
    live: str
    processes: tuple[str, ...]
    ours: bool = True

    def body(self, messages: str, **more: object) -> bytes:
        """A chat request around `messages`, which is JSON."""
        rest = json.dumps({"model": "kimi_k2", "max_tokens": 1, **more})[1:]
        return f'{{"messages":{messages},{rest}'.encode()

    def memory(self) -> int:
        """Bytes that those processes have now."""
        found = 0
        for each in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(word in " ".join(each.cmdline()) for word in self.processes):
                    found += each.memory_info().rss
        return found


@dataclass(frozen=True, slots=True)
class Ensemble(Door):
    """Triton's own: what is JSON travels as a string."""

    def body(self, messages: str, **more: object) -> bytes:
        rest = {"messages": messages, "max_tokens": 1, **more}
        if "logit_bias" in rest:
            rest["sampling_parameters"] = {"logit_bias": rest.pop("logit_bias")}
        return json.dumps({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in rest.items()}).encode()


def frontend(url: str) -> Door:
    return Door(url, "/v1/chat/completions", "/health/live", ("kimi_k2_serving.frontend",))


def ensemble(url: str) -> Door:
    names = ("kimi_k2_preprocess", "kimi_k2_serving.triton.chat.reader")
    # Triton parses a body on one of a few threads, each of which has connections of others too: a body that no model
    # ever sees holds up its health as long.
    return Ensemble(url, "/v2/models/kimi_k2/generate_stream", "/v2/health/live", names, ours=False)


def quotes() -> str:
    return '[{"role":"user","content":"' + '\\"' * (7 * 2**20) + '"}]'


def numbers() -> str:
    return "[" + ",".join(["[[1,2,3,4,5,6]]"] * 55_000) + "]"


def messages() -> str:
    return json.dumps([{"role": "user", "content": "word " * 125}] * 19_000)


def words() -> str:
    return json.dumps([{"role": "user", "content": "several words of a text " * 500_000}])


def schemas() -> list[object]:
    properties = {f"p{number}": {"type": "string", "description": "x" * 200} for number in range(900)}
    return [
        {"type": "function", "function": {"name": f"t{n}", "parameters": {"type": "object", "properties": properties}}}
        for n in range(50)
    ]


def post(door: Door, data: bytes) -> int:
    """The status; 0 for a connection that ended without."""
    with contextlib.closing(_connect(door.url)) as connection:
        try:
            connection.request("POST", door.path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return 0


def _connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)


@dataclass(slots=True)
class Watch:
    """When the stream's pieces came, how long the cheapest path and a small request took, how the attack's requests
    ended, and the most memory there was.
    """

    arrivals: list[float] = field(default_factory=list)
    lives: list[float] = field(default_factory=list)
    smalls: list[float] = field(default_factory=list)
    memory: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

    def gap(self, begin: float, end: float) -> float:
        """The largest between two pieces, of which the later came within."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return max((after - before for before, after in pairs if begin <= after <= end + 1), default=end - begin)


def stream(door: Door, watch: Watch, over: threading.Event) -> None:
    """Streams one behind the other until it is over. A new one's first piece is no gap."""
    request = door.body(USER, stream=True, max_tokens=1000, ignore_eos=True, logit_bias=NO_CALLS)
    while not over.is_set():
        with contextlib.closing(_connect(door.url)) as connection:
            connection.request("POST", door.path, request, {"content-type": "application/json"})
            response = connection.getresponse()
            while not over.is_set() and (line := response.readline()):
                if line.startswith(b"data: {"):
                    watch.arrivals.append(time.monotonic())


def live(door: Door, watch: Watch, over: threading.Event) -> None:
    while not over.is_set():
        begin = time.monotonic()
        with contextlib.closing(_connect(door.url)) as connection:
            connection.request("GET", door.live)
            assert connection.getresponse().status == 200
        watch.lives.append(time.monotonic() - begin)
        over.wait(0.02)


def small(door: Door, watch: Watch, over: threading.Event) -> None:
    request = door.body(USER)
    while not over.is_set():
        begin = time.monotonic()
        assert post(door, request) == 200
        watch.smalls.append(time.monotonic() - begin)
        watch.memory = max(watch.memory, door.memory())
        over.wait(0.2)


def bodies(door: Door, data: bytes, count: int) -> Callable[[Watch, threading.Event], None]:
    """`count` clients that send it again and again."""

    def attack(watch: Watch, over: threading.Event) -> None:
        def client() -> None:
            while not over.is_set():
                watch.statuses[str(post(door, data))] += 1

        with _threads(*[client] * count):
            over.wait()

    return attack


def connections(door: Door, count: int, first: bytes, more: bytes) -> Callable[[Watch, threading.Event], None]:
    """`count` connections that begin with `first` and send one more byte of `more` at a time."""

    def attack(watch: Watch, over: threading.Event) -> None:
        address = urlsplit(door.url)
        with contextlib.ExitStack() as stack:
            held = []
            for _ in range(count):
                with contextlib.suppress(OSError):
                    held.append(stack.enter_context(socket.create_connection((address.hostname, address.port), 10)))
                    held[-1].sendall(first)
            for piece in more:
                for each in held:
                    with contextlib.suppress(OSError):
                        each.send(bytes([piece]))
                if over.wait(0.2):
                    break
            over.wait()
            watch.statuses["connections"] = len(held)

    return attack


@contextlib.contextmanager
def _threads(*works: Callable[[], None]) -> Iterator[None]:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


Attack = Callable[[Watch, threading.Event], None]


def on_frontend(door: Door) -> Iterator[tuple[str, Attack]]:
    head = f"POST {door.path} HTTP/1.1\r\nhost: localhost\r\n".encode()
    slow = head + b"content-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
    yield from large(door)
    yield "200 slow senders of bodies", connections(door, 200, slow, b" " * 1000)
    yield "200 slow senders of heads", connections(door, 200, head, b"x" * 1000)
    yield "500 idle connections", connections(door, 500, b"", b"")


def large(door: Door) -> Iterator[tuple[str, Attack]]:
    yield "1 body of 14 MiB of escaped quotes", bodies(door, door.body(quotes()), 1)
    yield "5 bodies of 14 MiB of escaped quotes", bodies(door, door.body(quotes()), 5)
    yield "3 bodies of 0.9 MB of nested numbers", bodies(door, door.body(numbers()), 3)
    yield "2 bodies of 12 MB in 19,000 messages", bodies(door, door.body(messages()), 2)
    yield "2 bodies of 12 MB of words", bodies(door, door.body(words()), 2)
    yield "2 bodies of 50 large schemas", bodies(door, door.body(USER, tools=schemas()), 2)


def on_ensemble(door: Door) -> Iterator[tuple[str, Attack]]:
    for name, attack in large(door):
        yield f"ensemble: {name}", attack


def under_attack(door: Door, attacks: Iterable[tuple[str, Attack]], *, slack: float = 1.0) -> Iterator[Row]:
    """A row for each attack."""
    for name, attack in attacks:
        watch, over = Watch(), threading.Event()
        watchers = [functools.partial(each, door, watch, over) for each in (stream, live, small)]
        with _threads(*watchers):
            time.sleep(1)
            begin = time.monotonic()
            time.sleep(ALONE_SECONDS)
            middle = time.monotonic()
            alone, live_alone, small_alone = watch.gap(begin, middle), max(watch.lives), max(watch.smalls)
            watch.lives.clear()
            watch.smalls.clear()
            with _threads(functools.partial(attack, watch, over)):
                time.sleep(ATTACK_SECONDS)
                end = time.monotonic()
                over.set()
            gap, longest = watch.gap(middle, end), max(watch.lives, default=ATTACK_SECONDS)
        late = max(watch.smalls, default=ATTACK_SECONDS)
        row = Row(
            name,
            1,
            watch.statuses,
            f"largest gap {alone * 1e3:.0f} -> {gap * 1e3:.0f} ms, "
            f"{door.live} at most {live_alone * 1e3:.0f} -> {longest * 1e3:.0f} ms, "
            f"a small request at most {small_alone * 1e3:.0f} -> {late * 1e3:.0f} ms, "
            f"memory at most {watch.memory / 2**20:.0f} MiB",
        )
        row.expect(gap - alone <= GAP_SECONDS * slack, f"no gap of more than {GAP_SECONDS} s beyond the stream alone")
        row.expect(not door.ours or longest <= LIVE_SECONDS * slack, f"{door.live} within {LIVE_SECONDS} s")
        row.expect(late - small_alone <= SMALL_SECONDS * slack, f"a small request within {SMALL_SECONDS} s more")
        yield row
