"""`python -m tests.pictures.page URL FILE`: the picture of the page in docs/, taken from a running server.

The conversation is real: the question and the tool's result are typed in, and the model writes the rest.
"""

from __future__ import annotations

import sys

from playwright.sync_api import expect

from tests.support.browser import PATIENCE, installed, started

QUESTION = "What is the weather in Lisbon, in celsius?"
RESULT = '{"temperature": 21}'


def main(url: str, file: str) -> int:
    if (path := installed()) is None:
        print("screenshot: no Chromium is installed (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    expect.set_options(timeout=PATIENCE)
    with started(path) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800}, device_scale_factor=1.5)
        page.goto(url)
        expect(page.get_by_role("status").first).to_have_text("ready")
        page.get_by_text("Tools", exact=True).click()
        page.get_by_label("Example").select_option("weather")
        page.get_by_label("Message").fill(QUESTION)
        page.keyboard.press("Enter")
        page.get_by_label("Result of get_weather").first.fill(RESULT)
        page.get_by_role("button", name="Send the result").click()
        expect(page.get_by_role("article", name="Answer").last.locator(".meta")).to_contain_text("ended: ")
        page.wait_for_timeout(2500)  # the strip's next look at the engine
        page.screenshot(path=file)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
