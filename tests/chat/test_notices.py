"""What has no effect is said: keys that nobody reads, seeds where the engine draws by none; in few lines."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_k2_serving.chat import below
from kimi_k2_serving.chat.notices import MOST_NOTICES, Notices
from kimi_k2_serving.core.errors import UnknownField


def lines(**body: Any) -> list[str]:
    notices = Notices()
    below.check_nested_fields(body, notices)
    return notices.lines


def test_unknown_keys_of_the_history_are_listed_by_their_path() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}", "why": 1}, "when": 2}
    history = [
        {"role": "user", "content": "a", "novelty": 1, "nothing": None},
        {"role": "assistant", "tool_calls": [call]},
    ]
    assert lines(messages=history) == [
        "messages[0].novelty: ignored",
        "messages[1].tool_calls[0].when: ignored",
        "messages[1].tool_calls[0].function.why: ignored",
    ]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x"),
        ({"response_format": {"type": "json_schema", "json_schema": {"x": 1}}}, "response_format.json_schema.x"),
        ({"tool_choice": {"type": "function", "function": {"name": "f", "x": 1}}}, "tool_choice.function.x"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"x": 1}}}, "tool_choice.allowed_tools.x"),
    ],
)
def test_unknown_keys_of_what_steers_the_answer_are_refused(body: dict[str, Any], path: str) -> None:
    with pytest.raises(UnknownField) as caught:
        lines(**body)
    assert caught.value.field == path


def test_lines_and_what_they_quote_are_bounded() -> None:
    found = lines(messages=[{"role": "user", "content": "a", **{f"{i}{'x' * 999}": 1 for i in range(999)}}])
    assert len(found) == MOST_NOTICES
    assert max(map(len, found)) < 100


@pytest.mark.parametrize("heeded", [False, True])
def test_a_seed_is_said_to_have_no_effect_only_where_it_has_none(heeded: bool) -> None:
    notices = Notices()
    notices.seeded({"sampling_seed": 1}, heeded=heeded)
    notices.seeded({}, heeded=heeded)
    assert [line.partition(":")[0] for line in notices.lines] == ([] if heeded else ["seed"])
