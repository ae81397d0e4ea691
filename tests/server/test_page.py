"""The page over the real engine: a tool call, a stopped answer, and an engine that dies and comes back."""

from __future__ import annotations

import json

from playwright.sync_api import Page, expect

from tests.frontend.running import over
from tests.server.running import running
from tests.support.browser import chromium, context, page

__all__ = ["chromium", "context", "page"]

START = 90_000.0  # milliseconds within which a killed engine is ready again


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


def test_a_call_a_stop_and_a_restart_of_the_engine_are_seen_on_the_page(page: Page) -> None:
    with running() as server, over(server, "--triton-metrics", f"127.0.0.1:{server.metrics}") as url:
        page.goto(url)
        state = page.get_by_role("status").first
        expect(state).to_have_text("ready")
        call_a_tool(page)
        stop_an_answer(page)
        expect(page.locator("#restarts")).to_have_text("0")
        server.named("sglang::scheduler").kill()
        expect(state).to_contain_text("not ready (the engine is")
        expect(state).to_have_text("ready", timeout=START)
        expect(page.locator("#restarts")).to_have_text("1")
        page.get_by_label("Maximum tokens").fill("8")
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_role("article", name="Answer").last.locator(".meta")).to_contain_text("ended: ")


def call_a_tool(page: Page) -> None:
    page.get_by_text("Tools", exact=True).click()
    page.get_by_label("Example").select_option("weather")
    page.get_by_label("Tool choice").select_option("required")
    page.get_by_label("Maximum tokens").fill("2000")
    ask(page, "What is the weather in Zürich?")
    call = page.get_by_role("region", name="Tool call").first
    expect(call.get_by_label("Result of get_weather")).to_be_visible(timeout=START)
    arguments = json.loads(call.get_by_label("Arguments").inner_text())
    assert set(arguments) == {"city", "unit"}
    page.get_by_label("Tool choice").select_option("none")
    page.get_by_label("Maximum tokens").fill("8")
    for box in page.get_by_label("Result of get_weather").all():
        box.fill("4 degrees")
    page.get_by_role("button", name="Send the result").click()
    expect(page.get_by_role("article", name="Answer").last.locator(".meta")).to_contain_text("ended: ")


def stop_an_answer(page: Page) -> None:
    """A schema makes the answer so long that it is under way when it is stopped."""
    schema = page.get_by_label("Schema", exact=True)
    page.get_by_text("JSON schema of the answer").click()
    schema.fill('{"type": "array", "items": {"type": "boolean"}, "minItems": 4000}')
    page.get_by_label("Maximum tokens").fill("20000")
    ask(page, "Toss a coin, very often.")
    answer = page.get_by_role("article", name="Answer").last
    expect(answer.locator(".text")).not_to_be_empty()
    expect(page.locator("#running")).to_have_text("1")
    page.get_by_role("button", name="Stop").click()
    expect(answer).to_contain_text("Stopped.")
    expect(page.locator("#running")).to_have_text("0")
    schema.fill("")
