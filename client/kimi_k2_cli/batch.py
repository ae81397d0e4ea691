"""`kimi-k2 batch IN OUT`: sends OpenAI batch requests, one JSON object per line, to any OpenAI-compatible server.

Each line is `{"custom_id", "method", "url", "body"}`. Each answer is `{"custom_id", "response": {"status_code",
"body"}, "error"}`; answers are in the order in which they end. They are appended to OUT. A request that has an answer
with status 200 there is not sent again, so a batch that was stopped goes on where it was. Requests that are refused for
now (429, 503, no connection) are sent again, with growing pauses.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import httpx

from kimi_k2_cli import endpoint
from kimi_k2_cli.endpoint import OpenAIEndpoint
from kimi_k2_cli.given_file import read_lines
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.errors import InvalidRequest, InvalidValue

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
FOR_NOW = (429, 503)
LONGEST_PAUSE = 30.0  # seconds
PROGRESS_SECONDS = 5.0
# Every answer that this program writes begins so.
BEGINNING = b'{"custom_id": '


@dataclass(frozen=True, slots=True)
class BatchLine:
    custom_id: str
    path: str
    body: dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", type=Path, help="the requests, JSONL in OpenAI's batch form")
    parser.add_argument("target", metavar="OUT", type=Path, help="the answers; appended to")
    parser.add_argument("--url", default=endpoint.URL, help="the server (default: %(default)s)")
    endpoint.add_key_option(parser)
    parser.add_argument("--concurrency", metavar="N", type=int, default=8, help="requests at a time (default: 8)")
    parser.add_argument("--retries", metavar="N", type=int, default=6, help="further attempts of each (default: 6)")
    parser.add_argument("--json", action="store_true", help="the summary as one JSON object")


def run(args: argparse.Namespace) -> int:
    """0 if every request has an answer with status 200, else 1."""
    for name, least in (("concurrency", 1), ("retries", 0)):
        if getattr(args, name) < least:
            raise InvalidValue(f"must be at least {least}", field=f"--{name}")
    requests = read_batch(args.source)
    if args.target.exists() and args.target.samefile(args.source):
        raise InvalidValue("is the same file as IN; name another one for the answers", field="OUT")
    done = finished(args.target)
    todo = [each for each in requests if each.custom_id not in done]
    counts = {"requests": len(requests), "already_done": len(requests) - len(todo), "ok": 0, "failed": 0}
    try:
        with (
            endpoint.open_endpoint(args.url, endpoint.read_key(args.api_key_file)) as server,
            args.target.open("a", encoding="utf-8") as sink,
        ):
            show = BatchProgress(sys.stderr, len(todo))
            for answer in answers(server, todo, concurrency=args.concurrency, retries=args.retries):
                print(as_line(answer), file=sink, flush=True)
                response = answer["response"]
                is_ok = response is not None and response["status_code"] == 200
                counts["ok" if is_ok else "failed"] += 1
                show.count(counts["ok"], counts["failed"])
    except OSError as error:
        raise InvalidValue(f"the file can't be written: {error.strerror}", field="OUT") from None
    words = (f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    print(json.dumps(counts) if args.json else ", ".join(words))
    return 1 if counts["failed"] else 0


def read_batch(path: Path) -> list[BatchLine]:
    """Read the batch. Raises InvalidValue that names the line."""
    requests: dict[str, BatchLine] = {}
    for number, line in read_lines(path, "IN"):
        request = _request(line, number)
        if request.custom_id in requests:
            raise InvalidValue(f"line {number}: custom_id {request.custom_id!r} occurs twice", field="IN")
        requests[request.custom_id] = request
    return list(requests.values())


def _request(line: str, number: int) -> BatchLine:
    try:
        value = strict_json.loads(line, field="IN")
    except InvalidRequest as error:
        raise InvalidValue(f"line {number}: {error.detail}", field="IN") from None
    match value:
        case {"custom_id": str(custom_id), "url": str(path), "body": dict(body)} if path in PATHS:
            if body.get("stream"):
                raise InvalidValue(f"line {number}: a batch is not streamed; leave stream out", field="IN")
            return BatchLine(custom_id, path, body)
    raise InvalidValue(
        f"line {number} is no request: custom_id, url (one of {', '.join(PATHS)}) and body are needed", field="IN"
    )


def finished(path: Path) -> set[str]:
    """The ids that have an answer with status 200. An incomplete last line is removed from the file.

    Raises InvalidValue, and leaves the file as it is, if a line is no answer.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise InvalidValue(f"{path} can't be read: {error.strerror}", field="OUT") from None
    *lines, rest = data.split(b"\n")
    found = set()
    for number, line in enumerate(lines, 1):
        match _loads(line):
            case {"custom_id": str(custom_id), "response": {"status_code": 200}}:
                found.add(custom_id)
            case {"custom_id": str(), "response": _, "error": _}:
                pass
            case _:
                raise InvalidValue(f"line {number} is no answer of a batch; name another file", field="OUT")
    if rest:
        if not BEGINNING.startswith(rest[: len(BEGINNING)]):
            raise InvalidValue("its last line is no answer of a batch; name another file", field="OUT")
        with path.open("r+b") as file:
            file.truncate(len(data) - len(rest))
    return found


def _loads(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def as_line(answer: dict[str, Any]) -> str:
    """JSON as it is readable, but with escapes if a server has sent half of a surrogate pair, which UTF-8 lacks."""
    text = json.dumps(answer, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(answer)
    return text


def answers(
    server: OpenAIEndpoint,
    requests: list[BatchLine],
    *,
    concurrency: int,
    retries: int,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[dict[str, Any]]:
    """Yield the answers as they come. When the loop is left early, only the requests under way are awaited."""
    leaving = threading.Event()
    waiting = iter(requests)
    with ThreadPoolExecutor(concurrency, "batch") as pool:
        under_way: set[Future[dict[str, Any]]] = set()
        try:
            while True:
                for request in waiting:
                    under_way.add(pool.submit(_answer, server, request, retries, sleep, leaving))
                    if len(under_way) >= concurrency:
                        break
                if not under_way:
                    return
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in ended)
        finally:
            leaving.set()


def _answer(
    server: OpenAIEndpoint, request: BatchLine, retries: int, sleep: Callable[[float], None], leaving: threading.Event
) -> dict[str, Any]:
    for attempt in range(retries + 1):
        is_last = attempt == retries or leaving.is_set()
        pause = min(LONGEST_PAUSE, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)
        try:
            response = server.post(request.path, request.body)
        except httpx.HTTPError as error:
            # A request is sent again only if it certainly did not begin.
            if is_last or not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                return _line(request, None, {"code": "connection", "message": type(error).__name__})
        else:
            if is_last or response.status_code not in FOR_NOW:
                return _line(request, response, None)
            pause = max(pause, _seconds(response.headers.get("Retry-After", "")))
        sleep(pause)
    raise AssertionError("the last attempt returns")


def _seconds(header: str) -> float:
    return min(float(header), LONGEST_PAUSE) if header.isascii() and header.isdigit() else 0.0


def _line(request: BatchLine, response: httpx.Response | None, error: dict[str, str] | None) -> dict[str, Any]:
    told = None
    if response is not None:
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = {"error": {"message": "the answer is not JSON"}}
        told = {"status_code": response.status_code, "request_id": response.headers.get("x-request-id"), "body": body}
    return {"custom_id": request.custom_id, "response": told, "error": error}


class BatchProgress:
    """A line that is rewritten on a terminal; elsewhere a line every few seconds."""

    def __init__(self, stream: TextIO, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._total = total
        self._clock = clock
        self._begun = self._shown = clock()

    def count(self, ok: int, failed: int) -> None:
        done, now = ok + failed, self._clock()
        is_last = done == self._total
        if not (self._stream.isatty() or is_last or now - self._shown >= PROGRESS_SECONDS):
            return
        self._shown = now
        rate = done / max(now - self._begun, 1e-6)
        text = f"{done}/{self._total}, {failed} failed, {rate:.1f} a second"
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{text}" + ("\n" if is_last else ""))
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
