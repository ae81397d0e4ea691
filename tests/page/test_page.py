"""The page in a real browser, over an engine whose answers are known: clicks and keys, and what is then to be seen."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from kimi_k2_serving.frontend.page import Page as Document
from tests.frontend.running import scripted

pytestmark = pytest.mark.slow


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def answers(page: Page) -> list[str]:
    return page.get_by_role("article", name="Answer").locator(".text").all_inner_texts()


def idle(page: Page) -> None:
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()


def sent(page: Page) -> list[dict[str, object]]:
    """The bodies of the chat requests from now on."""
    bodies: list[dict[str, object]] = []

    def note(route: Route) -> None:
        bodies.append(route.request.post_data_json)
        route.continue_()

    page.route("**/v1/chat/completions", note)
    return bodies


def test_an_answer_streams_in_and_says_what_it_took(page: Page, scripted_url: str) -> None:
    page.goto(scripted_url)
    text = "Hello <b>there</b>, this answer is long enough to be seen as it comes. " * 2
    ask(page, f"say {text}")
    answer = page.get_by_role("article", name="Answer")
    expect(answer).to_have_attribute("aria-busy", "true")
    expect(answer.locator(".text")).to_have_text(text.strip())
    idle(page)
    expect(answer).to_have_attribute("aria-busy", "false")
    facts = answer.locator(".meta").inner_text()
    assert all(word in facts for word in ("first token", "tokens/s", "prompt", "4 cached", "ended: stop"))


def test_a_call_streams_takes_a_result_and_the_conversation_goes_on(page: Page, scripted_url: str) -> None:
    bodies = sent(page)
    page.goto(scripted_url)
    page.get_by_text("Tools", exact=True).click()
    page.get_by_label("Example").select_option("weather")
    page.get_by_label("Tool choice").select_option("required")
    ask(page, 'call get_weather {"city": "Zürich", "unit": "celsius"}')
    call = page.get_by_role("region", name="Tool call")
    expect(call.get_by_role("heading")).to_have_text("calls get_weather")
    expect(call.get_by_label("Arguments")).to_have_text('{"city": "Zürich", "unit": "celsius"}')
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    page.get_by_label("Tool choice").select_option("auto")
    call.get_by_label("Result of get_weather").fill("4 degrees")
    page.get_by_role("button", name="Send the result").click()
    answer = page.get_by_role("article", name="Answer").last
    expect(answer.locator(".text")).to_contain_text("echo: ## Return of functions.get_weather:0")
    expect(answer.locator(".text")).to_contain_text("4 degrees")
    idle(page)
    *_, assistant, result = bodies[1]["messages"]  # type: ignore[misc]
    assert assistant["tool_calls"][0]["function"] == {  # type: ignore[index]
        "name": "get_weather",
        "arguments": '{"city": "Zürich", "unit": "celsius"}',
    }
    assert result["tool_call_id"] == assistant["tool_calls"][0]["id"]  # type: ignore[index]


def test_two_calls_need_two_results_and_both_are_sent(page: Page, scripted_url: str) -> None:
    bodies = sent(page)
    page.goto(scripted_url)
    page.get_by_text("Tools", exact=True).click()
    page.get_by_label("Example").select_option("files")
    ask(page, 'call list_directory {"path": "/"} ; read_file {"path": "/a"}')
    page.get_by_label("Result of list_directory").fill("a")
    page.get_by_label("Result of read_file").fill("say done")
    page.get_by_role("button", name="Send the results").click()
    expect(page.get_by_role("article", name="Answer")).to_have_count(2)
    idle(page)
    roles = [message["role"] for message in bodies[1]["messages"]]  # type: ignore[attr-defined]
    assert roles == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize(
    "stop", [lambda page: page.get_by_role("button", name="Stop").click(), lambda page: page.keyboard.press("Escape")]
)
def test_stop_ends_the_answer_and_keeps_what_was_written(
    page: Page, scripted_url: str, stop: Callable[[Page], None]
) -> None:
    bodies = sent(page)
    page.goto(scripted_url)
    ask(page, f"say {'one two three ' * 200}")
    expect(page.get_by_role("article", name="Answer").locator(".text")).to_contain_text("one two")
    stop(page)
    expect(page.get_by_text("Stopped. What was written stays in the conversation.")).to_be_visible()
    idle(page)
    kept = answers(page)[0]
    assert 0 < len(kept) < 2_000
    ask(page, "say more")
    expect(page.get_by_role("article", name="Answer").last.locator(".text")).to_have_text("more")
    assert bodies[1]["messages"][1] == {"role": "assistant", "content": kept}  # type: ignore[index]


def test_retry_asks_the_same_again_in_place_of_the_answer(page: Page, scripted_url: str) -> None:
    bodies = sent(page)
    page.goto(scripted_url)
    ask(page, "once engine_lost retried say better now")
    expect(page.get_by_text("Failed: as the script says. The conversation keeps nothing of it.")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("article", name="Answer").locator(".text")).to_have_text("better now")
    expect(page.get_by_role("article", name="Answer")).to_have_count(1)
    idle(page)
    assert bodies[0] == bodies[1]


def test_an_error_in_the_middle_of_a_stream_is_shown(page: Page, scripted_url: str) -> None:
    page.goto(scripted_url)
    ask(page, "break engine_lost")
    expect(page.get_by_text("Failed: as the script says. What was written stays in the conversation.")).to_be_visible()
    assert answers(page) == ["one two"]


def test_a_new_conversation_forgets_an_answer_under_way(page: Page, scripted_url: str) -> None:
    bodies = sent(page)
    page.goto(scripted_url)
    ask(page, f"say {'one two three ' * 200}")
    expect(page.get_by_role("article", name="Answer").locator(".text")).to_contain_text("one two")
    page.get_by_role("button", name="New conversation").click()
    ask(page, "say fresh")
    expect(page.get_by_role("article", name="Answer").locator(".text")).to_have_text("fresh")
    idle(page)
    assert [message["content"] for message in bodies[1]["messages"]] == ["say fresh"]  # type: ignore[attr-defined]


def test_the_keyboard_alone_is_enough(page: Page, scripted_url: str) -> None:
    page.goto(scripted_url)
    expect(page.get_by_label("Message")).to_be_focused()
    page.keyboard.type("say first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article", name="Answer").locator(".text")).to_have_text("first line\nsecond line")
    idle(page)
    expect(page.get_by_label("Message")).to_be_focused()
    page.keyboard.press("Control+Home")
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"model", "system", "temperature", "max_tokens", "log", "prompt", "send", "retry", "clear"} <= seen


def test_every_control_has_a_name_and_an_id_is_used_once(page: Page, scripted_url: str) -> None:
    page.goto(scripted_url)
    nameless = page.evaluate(
        """[...document.querySelectorAll("input, select, textarea, button, dialog, section")].filter((each) =>
             !(each.labels?.length || each.ariaLabel || each.getAttribute("aria-labelledby") || each.textContent.trim())
           ).map((each) => each.outerHTML)"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert sorted(ids) == sorted(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_schemes(page: Page, scripted_url: str, scheme: str) -> None:
    """WCAG's 4.5 to 1 for every pair of colours in which the page shows text."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(scripted_url)
    names = ["paper", "panel", "mine", "call", "code", "ink", "faint", "accent", "on-accent", "good", "bad"]
    read = "(name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
    color = {name: page.evaluate(read, name) for name in names}
    pairs = [(ink, paper) for ink in ("ink", "faint", "accent", "good", "bad") for paper in ("paper", "panel")]
    pairs += [("ink", "mine"), ("ink", "call"), ("faint", "call"), ("ink", "code"), ("on-accent", "accent")]
    assert {pair: ratio for pair in pairs if (ratio := contrast(color[pair[0]], color[pair[1]])) < 4.5} == {}


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_settings_reach_the_request_and_wrong_json_is_named(page: Page, scripted_url: str) -> None:
    bodies = sent(page)
    page.goto(scripted_url)
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.2")
    page.get_by_label("Maximum tokens").fill("9")
    page.get_by_text("JSON schema of the answer").click()
    page.get_by_label("Schema", exact=True).fill('{"type": "object"')
    ask(page, "say {}")
    expect(page.get_by_role("status").filter(has_text="The schema is not JSON")).to_be_visible()
    assert bodies == []
    page.get_by_label("Schema", exact=True).fill('{"type": "object"}')
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("article", name="Answer").locator(".text")).to_have_text("{}")
    (body,) = bodies
    assert (body["temperature"], body["max_tokens"]) == (0.2, 9)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "say {}"}]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}  # type: ignore[index]


def test_with_keys_it_asks_for_one_and_keeps_it_in_memory_only(
    page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = "sk-0123456789abcdef"
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"{key}\n")
    with scripted("--api-key-file", str(file)) as url:
        page.goto(url)
        dialog = page.get_by_role("dialog", name="This server asks for an API key")
        dialog.get_by_label("Key").fill("sk-wrong-wrong-wrong")
        dialog.get_by_label("Key").press("Enter")
        expect(dialog.get_by_text("This key is not valid.")).to_be_visible()
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use it").click()
        expect(dialog).not_to_be_visible()
        expect(page.get_by_role("status").first).to_have_text("ready")
        ask(page, "say open")
        expect(page.get_by_role("article", name="Answer").locator(".text")).to_have_text("open")
        page.get_by_text("The request, to copy").click()
        assert "$API_KEY" in page.get_by_label("The request").inner_text()
        assert key not in page.content()
        stored = page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage), document.cookie]")
        assert stored == ["{}", "{}", ""]
        page.reload()
        expect(dialog).to_be_visible()


def test_the_policy_names_the_files_own_script_and_style_and_nothing_else() -> None:
    headers = dict(Document.load().headers)
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for source in (policy["script-src"], policy["style-src"]):
        assert source.startswith("'sha256-")
        assert "unsafe" not in source
        assert " " not in source


def test_a_script_that_is_not_the_pages_own_does_not_run(page: Page, scripted_url: str) -> None:
    page.goto(scripted_url)
    ran = page.evaluate(
        """() => { const added = document.createElement("p");
             try { added.innerHTML = "<img src=x onerror='window.ran = 1'>"; } catch { return "refused"; }
             document.body.append(added); return window.ran ?? "none"; }"""
    )
    assert ran == "refused"


def test_the_examples_are_tools_that_the_server_accepts(page: Page, scripted_url: str) -> None:
    page.goto(scripted_url)
    page.get_by_text("Tools", exact=True).click()
    for name in ("weather", "calculator", "files"):
        page.get_by_label("Example").select_option(name)
        tools = json.loads(page.get_by_label("Tools, as JSON").input_value())
        answer = page.request.post(
            f"{scripted_url}/v1/chat/completions/render",
            data={"model": "kimi_k2", "messages": [{"role": "user", "content": "x"}], "tools": tools},
        )
        assert answer.ok, answer.text()


def copied(page: Page, form: str) -> str:
    page.get_by_label(form).check()
    return page.get_by_label("The request").inner_text()


def test_the_request_can_be_copied_and_is_the_one_that_was_sent(page: Page, scripted_url: str) -> None:
    bodies = sent(page)
    page.goto(scripted_url)
    page.get_by_text("Tools", exact=True).click()
    page.get_by_label("Example").select_option("weather")
    page.get_by_text("The request, to copy").click()
    text = 'say it\'s \\ "quoted", ünïcode $HOME `x` ${y}'
    page.get_by_label("Message").fill(text)
    shown = {form: copied(page, form) for form in ("curl", "Python", "JavaScript")}
    page.get_by_label("Message").press("Enter")
    idle(page)
    (body,) = bodies
    streamed = subprocess.run(["bash", "-c", shown["curl"]], capture_output=True, text=True, check=True).stdout
    assert streamed.endswith("data: [DONE]\n\n")
    assert said(streamed) == text.removeprefix("say ") == answers(page)[0]
    (call,) = (
        node
        for node in ast.walk(ast.parse(shown["Python"]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "create"
    )
    assert {str(each.arg): ast.literal_eval(each.value) for each in call.keywords} == body
    if node := shutil.which("node"):
        line = [node, "--input-type=module", "-e", shown["JavaScript"]]
        assert "[DONE]" in subprocess.run(line, capture_output=True, text=True, check=True).stdout


def said(stream: str) -> str:
    """The content of a streamed answer."""
    data = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(each["delta"].get("content") or "" for line in data for each in json.loads(line)["choices"])
