"""One slow stream beside clients who send what is dear to read: its largest gap, and how soon the frontend answers.

Everything here blocks in threads of its own, so that no client waits for another one's sending.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.chaos.row import Row

# Beyond the largest gap of the same stream alone, and for /health/live, on a machine that does nothing else.
GAP_SECONDS = 0.5
LIVE_SECONDS = 0.2
ALONE_SECONDS = 4.0
ATTACK_SECONDS = 6.0
PATH = "/v1/chat/completions"


def body(content: str, **more: object) -> bytes:
    """A chat request around `content`, which is JSON."""
    rest = json.dumps({"model": "kimi_k2", "max_tokens": 1, **more})[1:]
    return f'{{"messages":{content},{rest}'.encode()


def slow_stream() -> bytes:
    """Asked again whenever it ends."""
    request = {"model": "kimi_k2", "stream": True, "max_tokens": 1000, "ignore_eos": True}
    return json.dumps({**request, "messages": [{"role": "user", "content": "Tell me something."}]}).encode()


def quotes() -> bytes:
    return body('[{"role":"user","content":"' + '\\"' * (7 * 2**20) + '"}]')


def numbers() -> bytes:
    return body("[" + ",".join(["[[1,2,3,4,5,6]]"] * 55_000) + "]")


def messages() -> bytes:
    return body(json.dumps([{"role": "user", "content": "word " * 125}] * 19_000))


def words() -> bytes:
    return body(json.dumps([{"role": "user", "content": "several words of a text " * 500_000}]))


def schemas() -> bytes:
    properties = {f"p{number}": {"type": "string", "description": "x" * 200} for number in range(900)}
    tools = [
        {"type": "function", "function": {"name": f"t{n}", "parameters": {"type": "object", "properties": properties}}}
        for n in range(50)
    ]
    return body('[{"role":"user","content":"hi"}]', tools=tools)


def post(url: str, data: bytes, *, path: str = PATH) -> int:
    """The status; 0 for a connection that ended without."""
    with contextlib.closing(_connect(url)) as connection:
        try:
            connection.request("POST", path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return 0


def _connect(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)


@dataclass(slots=True)
class Watch:
    """When the stream's pieces came, how long /health/live took, and how the attack's requests ended."""

    arrivals: list[float] = field(default_factory=list)
    lives: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def gap(self, begin: float, end: float) -> float:
        """The largest between two pieces, of which the later came within."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return max((after - before for before, after in pairs if begin <= after <= end + 1), default=end - begin)


def stream(url: str, request: bytes, watch: Watch, over: threading.Event) -> None:
    """Streams one behind the other until it is over. A new one's first piece is no gap."""
    while not over.is_set():
        with contextlib.closing(_connect(url)) as connection:
            connection.request("POST", PATH, request, {"content-type": "application/json"})
            response = connection.getresponse()
            while not over.is_set() and (line := response.readline()):
                if line.startswith(b"data: {"):
                    watch.arrivals.append(time.monotonic())


def live(url: str, watch: Watch, over: threading.Event) -> None:
    while not over.is_set():
        begin = time.monotonic()
        with contextlib.closing(_connect(url)) as connection:
            connection.request("GET", "/health/live")
            assert connection.getresponse().status == 200
        watch.lives.append(time.monotonic() - begin)
        over.wait(0.02)


def bodies(url: str, data: bytes, count: int) -> Callable[[Watch, threading.Event], None]:
    """`count` clients that send it again and again."""

    def attack(watch: Watch, over: threading.Event) -> None:
        def client() -> None:
            while not over.is_set():
                watch.statuses[str(post(url, data))] += 1

        with _threads(*[client] * count):
            over.wait()

    return attack


def connections(url: str, count: int, first: bytes, more: bytes) -> Callable[[Watch, threading.Event], None]:
    """`count` connections that begin with `first` and send one more byte of `more` at a time."""

    def attack(watch: Watch, over: threading.Event) -> None:
        address = urlsplit(url)
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


def attacks(url: str) -> Iterator[tuple[str, Callable[[Watch, threading.Event], None]]]:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    slow = head + b"content-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
    yield "1 body of 14 MiB of escaped quotes", bodies(url, quotes(), 1)
    yield "5 bodies of 14 MiB of escaped quotes", bodies(url, quotes(), 5)
    yield "3 bodies of 0.9 MB of nested numbers", bodies(url, numbers(), 3)
    yield "2 bodies of 12 MB in 19,000 messages", bodies(url, messages(), 2)
    yield "2 bodies of 12 MB of words", bodies(url, words(), 2)
    yield "2 bodies of 50 large schemas", bodies(url, schemas(), 2)
    yield "200 slow senders of bodies", connections(url, 200, slow, b" " * 1000)
    yield "200 slow senders of heads", connections(url, 200, head, b"x" * 1000)
    yield "500 idle connections", connections(url, 500, b"", b"")


def under_attack(url: str, request: bytes, *, slack: float = 1.0, only: int | None = None) -> Iterator[Row]:
    """A row for each attack. `request` is the slow stream's body."""
    for name, attack in list(attacks(url))[:only]:
        watch, over = Watch(), threading.Event()
        with _threads(lambda w=watch, o=over: stream(url, request, w, o), lambda w=watch, o=over: live(url, w, o)):  # type: ignore[misc]
            time.sleep(1)
            begin = time.monotonic()
            time.sleep(ALONE_SECONDS)
            middle = time.monotonic()
            alone, live_alone = watch.gap(begin, middle), max(watch.lives)
            watch.lives.clear()
            with _threads(lambda w=watch, o=over, a=attack: a(w, o)):  # type: ignore[misc]
                time.sleep(ATTACK_SECONDS)
                end = time.monotonic()
                over.set()
            gap, longest = watch.gap(middle, end), max(watch.lives, default=ATTACK_SECONDS)
        row = Row(
            name,
            1,
            watch.statuses,
            f"largest gap {alone * 1e3:.0f} -> {gap * 1e3:.0f} ms, "
            f"/health/live at most {live_alone * 1e3:.0f} -> {longest * 1e3:.0f} ms",
        )
        row.expect(gap - alone <= GAP_SECONDS * slack, f"no gap of more than {GAP_SECONDS} s beyond the stream alone")
        row.expect(longest <= LIVE_SECONDS * slack, f"/health/live within {LIVE_SECONDS} s")
        yield row
