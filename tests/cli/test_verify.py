"""`kimi-k2 verify` passes a sound endpoint and finds every seeded fault, each by the check that is about it."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_cli.endpoint import open_endpoint
from kimi_k2_cli.main import main
from kimi_k2_cli.verify.asking import PAUSES, Asker, Busy
from kimi_k2_cli.verify.checks import CHECKS
from kimi_k2_cli.verify.conversations import ALL, WEATHER
from kimi_k2_serving.demo.call_scoring import schema_problem, trigger_score
from kimi_k2_serving.demo.openai_answer import EndpointCall
from tests.cli.scripted_endpoint import Fault, endpoint
from tests.support.http_server import respond, serving


def verify(capsys: pytest.CaptureFixture[str], url: str, *flags: str) -> tuple[int, dict[str, Any]]:
    code = main(["verify", url, "--json", *flags])
    return code, json.loads(capsys.readouterr().out)


def failed(document: dict[str, Any]) -> set[str]:
    return with_status("failed", document)


def with_status(status: str, document: dict[str, Any]) -> set[str]:
    return {check["name"] for check in document["checks"] if check["status"] == status}


def test_a_sound_endpoint_passes_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(None) as url:
        code, document = verify(capsys, url)
    assert with_status("passed", document) == {name for name, *_ in CHECKS}, document
    assert (code, document["passed"], document["model"]) == (0, True, "kimi_k2")
    assert [check["name"] for check in document["checks"]] == [name for name, *_ in CHECKS]


@pytest.mark.parametrize(
    ("field", "skipped"),
    [
        ("response_format", {"JSON schema"}),
        ("stop", {"stop strings"}),
        ("stream_options", {"stream equals whole", "JSON schema", "stop strings"}),
    ],
)
def test_what_a_foreign_endpoint_refuses_is_skipped_with_the_reason(
    field: str, skipped: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(None, refuses=frozenset([field])) as url:
        code, document = verify(capsys, url)
    assert (code, failed(document), with_status("skipped", document)) == (0, set(), skipped)
    for check in document["checks"]:
        assert (f"{field} is not supported" in check["detail"]) == (check["status"] == "skipped")


def test_calls_are_looked_at_where_they_can_not_be_demanded(capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(None, refuses=frozenset(["tool_choice"])) as url:
        _, document = verify(capsys, url)
    assert failed(document) == set()
    assert with_status("skipped", document) == {"stream equals whole"}
    with endpoint(Fault.INVALID_ARGUMENTS, refuses=frozenset(["tool_choice"])) as url:
        _, document = verify(capsys, url)
    assert "schema accuracy" in failed(document)
    with endpoint(Fault.SHY_CALLS, refuses=frozenset(["tool_choice"])) as url:
        _, document = verify(capsys, url)
    assert {"schema accuracy", "call ids"} < with_status("skipped", document)


def test_without_usage_only_usage_fails_and_the_template_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(None, refuses=frozenset(["usage"])) as url:
        code, document = verify(capsys, url)
    assert (code, failed(document)) == (1, {"usage"})
    assert with_status("skipped", document) == {name for name, *_ in CHECKS if name.startswith("template")}


def test_a_model_that_answers_in_a_word_is_no_fault_of_its_stop_strings(capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(None, counting="one") as url:
        _, document = verify(capsys, url, "--check", "stop strings")
    assert with_status("skipped", document) == {"stop strings"}
    assert not document["passed"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:9000", "http://h:9000/v1/models"),
        ("http://h:9000/v1/", "http://h:9000/v1/models"),
        ("https://v1.example.org", "https://v1.example.org/v1/models"),
        ("https://example.org/proxy", "https://example.org/proxy/v1/models"),
        ("https://example.org/v1/openai", "https://example.org/v1/openai/models"),
        ("https://example.org/api/v4", "https://example.org/api/v4/models"),
        ("https://example.org/v1beta/openai/", "https://example.org/v1beta/openai/models"),
    ],
)
def test_the_url_is_what_comes_before_chat_completions(url: str, expected: str) -> None:
    with open_endpoint(url, None) as server:
        assert server.at("/v1/models") == expected


def test_a_busy_endpoint_is_asked_again() -> None:
    waits: list[float] = []
    with endpoint(None, busy=2) as url, open_endpoint(url, None) as server:
        asker = Asker(server, "kimi_k2", sleep=waits.append)
        assert asker.whole([{"role": "user", "content": "Hello"}]).content
    assert waits == list(PAUSES[:2])
    with endpoint(None, busy=9) as url, open_endpoint(url, None) as server, pytest.raises(Busy, match="HTTP 429"):
        Asker(server, "kimi_k2", sleep=waits.append).whole([{"role": "user", "content": "Hello"}])


def test_after_its_minutes_the_rest_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(None) as url:
        code, document = verify(capsys, url, "--minutes", "0")
    assert with_status("skipped", document) == {name for name, *_ in CHECKS}
    assert (code, document["passed"]) == (1, False)


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
def test_every_seeded_fault_is_found_by_its_check(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(fault) as url:
        code, document = verify(capsys, url)
    assert code == 1
    assert fault.check in failed(document), document


def test_every_check_has_a_fault_that_it_must_find() -> None:
    assert {fault.check for fault in Fault} == {name for name, *_ in CHECKS}
    assert len(Fault) >= 10


def test_the_table_ends_with_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(Fault.WRONG_SUM) as url:
        assert main(["verify", url, "--server-only"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL  server  usage ") and "not the sum" in line for line in lines)
    assert lines[-1].startswith("kimi_k2: 1 of 11 checks failed in ")
    assert not any("trigger F1" in line for line in lines)


def test_one_check_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(Fault.WRONG_SUM) as url:
        code, document = verify(capsys, url, "--check", "call ids")
        assert (code, len(document["checks"])) == (0, 1)
        assert main(["verify", url, "--check", "nonsense"]) == 2


def test_an_endpoint_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "http://127.0.0.1:1/v1"]) == 1
    error = capsys.readouterr().err
    assert "is this an OpenAI-compatible endpoint, and is it up?" in error
    assert error.count("\n") == 1
    assert main(["verify", "ftp://x"]) == 2


def test_an_endpoint_that_asks_for_a_key_is_told_from_one_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self, 401, b'{"error": {"message": "no key"}}')

    with serving(Handler) as port:
        assert main(["verify", f"http://127.0.0.1:{port}"]) == 1
    assert "asks for a key: --api-key-file FILE" in capsys.readouterr().err


def test_samples_are_scored_as_the_vendor_does(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    asked = {"messages": [{"role": "user", "content": "What is the weather in Lisbon now, in celsius?"}], "tools": ALL}
    silent = {"messages": [{"role": "user", "content": "Who wrote Don Quixote?"}], "tools": ALL, "stream": True}
    lines = [
        asked,
        {"request": asked, "finish_reason": "tool_calls"},
        {"request": silent, "finish_reason": "tool_calls"},
        {"request": silent, "finish_reason": "stop"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    flags = ("--check", "call ids", "--samples", str(path))
    with endpoint(None) as url:
        code, document = verify(capsys, url, *flags)
    accuracy, f1 = document["checks"][-2:]
    assert accuracy["detail"] == "1.000 of 2 answers with calls; 0 of 4 requests failed"
    assert (f1["detail"], f1["status"], code) == ("0.500", "failed", 1)
    with endpoint(Fault.INVALID_ARGUMENTS) as url:
        _, document = verify(capsys, url, *flags)
    assert "samples: schema accuracy" in failed(document)


def test_conversations_of_the_demo_s_world_are_scored_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The scripted endpoint knows `verify`'s own conversations only, so it is no model of that world."""
    with endpoint(None) as url:
        code, document = verify(capsys, url, "--check", "call ids", "--cases", "12")
    scores = {check["name"]: check for check in document["checks"]}
    assert {"held-out: trigger F1", "held-out: exact arguments"} <= scores.keys()
    assert scores["held-out: exact arguments"]["status"] == "failed"
    assert code == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"messages": 3}', "3"])
def test_a_file_without_requests_is_refused_with_its_line(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(f"\n{text}\n")
    assert main(["verify", "http://127.0.0.1:1", "--samples", str(path)]) == 2
    assert "line 2 is no chat request" in capsys.readouterr().err


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "strin"},
        {"$ref": "#/nowhere"},
        {"pattern": "("},
        {"properties": 3},
        {"minimum": []},
        "x",
        {"$ref": "#"},
    ],
)
def test_a_schema_that_is_none_is_a_problem_and_no_crash(schema: Any) -> None:
    tools = [{"type": "function"}, {"function": {"name": "f", "parameters": schema}}]
    for arguments in ('{"a": "b"}', '"text"', "3"):
        problem = schema_problem(EndpointCall("", "f", arguments), tools)
        assert problem == "" or problem.startswith("f: its schema can't be used"), problem
    assert schema_problem(EndpointCall("", "g", "{}"), tools) == "'g' is not a declared tool"


def test_f1_is_the_vendor_s_formula() -> None:
    score = trigger_score([(True, True)] * 3 + [(True, False)] + [(False, True)] * 2 + [(False, False)] * 9)
    assert score.f1 == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert trigger_score([(False, False)]).f1 == 1.0
    assert trigger_score([(True, False)]).f1 == 0.0


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("get_weather", '{"city": "Bern", "unit": "celsius"}', ""),
        ("get_weather", '{"city": "Bern", "unit": "kelvin"}', "$.unit"),
        ("get_weather", '{"city": "Bern"}', "'unit' is a required property"),
        ("get_weather", '{"city": ', "not JSON"),
        ("get_wether", "{}", "'get_wether' is not a declared tool"),
    ],
)
def test_a_call_is_valid_only_if_declared_and_accepted_by_its_schema(name: str, arguments: str, says: str) -> None:
    problem = schema_problem(EndpointCall("", name, arguments), [WEATHER])
    assert says in problem
    assert bool(problem) == bool(says)
