"""`kimi-k2 batch`: every request gets one answer, however often the batch is stopped and started again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_cli import batch
from kimi_k2_cli.main import main
from tests.support.http_server import respond, serving


class Counting:
    """An OpenAI-compatible server that answers with the prompt, refuses `busy` once, and `bad` always."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.now = self.most = 0
        self.keys: set[str | None] = set()
        self.release = threading.Event()
        self.release.set()

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, Any]]:
        prompt = body["messages"][0]["content"]
        with self.lock:
            self.asked.append(prompt)
            self.keys.add(key)
            self.now += 1
            self.most = max(self.most, self.now)
            seen = self.asked.count(prompt)
        self.release.wait(30)
        with self.lock:
            self.now -= 1
        if prompt == "bad":
            return 400, {"error": {"message": "bad"}}
        if prompt == "half":
            return 200, {"echo": "\ud83d"}
        if prompt == "busy" and seen == 1:
            return 503, {"error": {"message": "later"}}
        return 200, {"path": path, "echo": prompt}


@pytest.fixture
def counting() -> Iterator[tuple[Counting, str]]:
    script = Counting()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, document = script.answer(self.path, body, self.headers.get("Authorization"))
            respond(self, status, json.dumps(document).encode())

    with serving(Handler) as port:
        yield script, f"http://127.0.0.1:{port}/v1"


def line(name: str, prompt: str = "", **changes: Any) -> str:
    body = {"model": "kimi_k2", "messages": [{"role": "user", "content": prompt or name}]}
    request = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body, **changes}
    return json.dumps(request) + "\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def results(path: Path) -> dict[str, Any]:
    return {each["custom_id"]: each for each in map(json.loads, path.read_text().splitlines())}


def test_every_request_gets_its_answer(
    counting: tuple[Counting, str], files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server, url = counting
    source, target = files
    source.write_text("".join(line(f"r{index}") for index in range(20)) + "\n" + line("x", "bad") + line("y", "busy"))
    assert main(["batch", str(source), str(target), "--url", url, "--concurrency", "3", "--json"]) == 1
    found = results(target)
    assert len(found) == 22
    assert found["r7"]["response"]["body"] == {"path": "/v1/chat/completions", "echo": "r7"}
    assert found["x"]["response"]["status_code"] == 400
    assert found["y"]["response"]["status_code"] == 200, "a refusal for now is tried again"
    assert server.asked.count("bad") == 1
    assert server.most <= 3
    out, told = capsys.readouterr()
    assert json.loads(out) == {"requests": 22, "already_done": 0, "ok": 21, "failed": 1}
    assert "22/22, 1 failed" in told


def test_a_batch_that_was_stopped_goes_on_where_it_was(
    counting: tuple[Counting, str], files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    server, url = counting
    source, target = files
    source.write_text("".join(line(name) for name in ("a", "b", "c", "d")))
    done = {"custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": None}
    failed = {"custom_id": "b", "response": {"status_code": 500, "body": {}}, "error": None}
    target.write_text(f"{json.dumps(done)}\n{json.dumps(failed)}\n" + '{"custom_id": "c", "respo')
    assert main(["batch", str(source), str(target), "--url", url]) == 0
    assert sorted(server.asked) == ["b", "c", "d"]
    assert [each["response"]["status_code"] for each in results(target).values()] == [200] * 4
    assert capsys.readouterr().out == "4 requests, 1 already done, 3 ok, 0 failed\n"


def test_half_of_a_surrogate_pair_in_a_request_or_an_answer_stops_nothing(
    counting: tuple[Counting, str], files: tuple[Path, Path]
) -> None:
    _, url = counting
    source, target = files
    source.write_text(line("a", "half") + line("b", "caf\ud83d") + line("\ud83d") + line("d", "\u2028"))
    for again in range(2):
        assert main(["batch", str(source), str(target), "--url", url]) == 0
        found = [json.loads(each) for each in target.read_text().split("\n") if each]
        assert len(found) == 4, f"attempt {again}"
    echoes = {each["custom_id"]: each["response"]["body"]["echo"] for each in found}
    assert echoes == {"a": "\ud83d", "b": "caf\ufffd", "\ufffd": "\ufffd", "d": "\u2028"}


def test_a_line_break_of_unicode_in_a_string_ends_no_line(
    counting: tuple[Counting, str], files: tuple[Path, Path]
) -> None:
    server, url = counting
    source, target = files
    source.write_text(json.dumps(json.loads(line("a", "x\u2028y\x85z")), ensure_ascii=False) + "\n")
    assert main(["batch", str(source), str(target), "--url", url]) == 0
    assert server.asked == ["x\u2028y\x85z"]


@pytest.mark.parametrize(("name", "value"), [("--retries", "-1"), ("--concurrency", "0")])
def test_a_number_that_is_too_small_is_refused(
    files: tuple[Path, Path], name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files[0].write_text(line("a"))
    assert main(["batch", *map(str, files), name, value]) == 2
    assert f"{name}: must be at least" in capsys.readouterr().err


def test_the_key_comes_from_a_file(counting: tuple[Counting, str], files: tuple[Path, Path], tmp_path: Path) -> None:
    server, url = counting
    source, target = files
    source.write_text(line("a"))
    key = tmp_path / "key"
    key.write_text("sk-1\n")
    assert main(["batch", str(source), str(target), "--url", url, "--api-key-file", str(key)]) == 0
    assert server.keys == {"Bearer sk-1"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{\n", "line 1: not JSON"),
        ("[" * 100_000 + "\n", "line 1: "),
        (line("a") + '{"custom_id": "b", "url": "/v1/chat/completions", "body": {"top_p": NaN}}\n', "line 2: "),
        ("\n[]\n", "line 2 is no request"),
        (line("a", url="/v1/files"), "line 1 is no request"),
        (line("a") + line("a"), "line 2: custom_id 'a' occurs twice"),
        (line("a", body={"stream": True}), "line 1: a batch is not streamed"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_before_anything_is_sent(
    counting: tuple[Counting, str], files: tuple[Path, Path], text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = files
    source.write_text(text)
    assert main(["batch", str(source), str(target), "--url", counting[1]]) == 2
    assert says in capsys.readouterr().err
    assert counting[0].asked == []


def test_a_server_that_is_not_there_is_reported_for_each_request(files: tuple[Path, Path]) -> None:
    source, target = files
    source.write_text(line("a"))
    assert main(["batch", str(source), str(target), "--url", "127.0.0.1:1", "--retries", "0"]) == 1
    assert results(target)["a"]["error"] == {"code": "connection", "message": "ConnectError"}


def test_pauses_are_not_shorter_than_the_server_asks_nor_endless() -> None:
    assert batch._seconds("7") == 7.0
    assert batch._seconds("100000") == batch.LONGEST_PAUSE
    assert batch._seconds("tomorrow") == 0.0


def test_the_answers_file_is_not_the_requests_and_holds_answers_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = '{"custom_id": "a", "url": "/v1/chat/completions", "body": {}}'
    source = tmp_path / "in"
    source.write_text(request)
    assert main(["batch", str(source), str(source)]) == 2
    assert "is the same file as IN" in capsys.readouterr().err
    for content in ("garbage\n", "half a li", request + "\n", "\n"):
        target = tmp_path / "out"
        target.write_text(content)
        assert main(["batch", str(source), str(target)]) == 2
        assert "no answer of a batch" in capsys.readouterr().err
        assert target.read_text() == content
    assert source.read_text() == request


def test_a_file_that_can_not_be_read_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    for name, why in (("latin", "is not UTF-8 text"), ("none", "can't be read: No such file or directory")):
        assert main(["batch", str(tmp_path / name), str(tmp_path / "out")]) == 2
        assert f"{tmp_path / name} {why}" in capsys.readouterr().err
