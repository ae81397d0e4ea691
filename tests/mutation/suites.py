"""The tests that hold each module's promises: few enough to run for every mutant."""

from __future__ import annotations

_ANSWERS = ("tests/core/test_tool_calls.py", "tests/property/test_answer_split.py", "tests/core/test_deltas.py")
_REPLAYS = ("tests/core/test_marker_text.py",)
_PROMPT = ("tests/core/test_render.py", "tests/property/test_prompt.py", "tests/property/test_prompt_template.py")

SUITES: dict[str, tuple[str, ...]] = {
    "call_machine": (*_ANSWERS, *_REPLAYS),
    "chat": ("tests/core/test_chat.py", "tests/core/test_render.py"),
    "chat_tools": ("tests/core/test_chat_tools.py", "tests/core/test_chat.py"),
    "decoder": ("tests/core/test_tokens.py", "tests/property/test_prompt.py"),
    "deltas": ("tests/core/test_deltas.py",),
    "engine.admission": ("tests/engine/test_admission.py",),
    "engine.lifecycle": ("tests/engine/test_lifecycle.py",),
    "engine.wire": ("tests/engine/test_wire.py",),
    "errors": ("tests/core/test_errors.py",),
    "events": ("tests/core/test_deltas.py", "tests/core/test_tool_calls.py"),
    "header": ("tests/core/test_header.py", "tests/core/test_tool_calls.py"),
    "history": ("tests/core/test_history.py", "tests/property/test_prompt.py"),
    "json_scan": ("tests/core/test_json_scan.py",),
    "limits": ("tests/core/test_errors.py",),
    "marker_text": (*_REPLAYS, "tests/property/test_answer_split.py"),
    "messages": ("tests/core/test_chat.py", "tests/core/test_render.py"),
    "phrases": ("tests/core/test_stops.py", *_REPLAYS),
    "pieces": ("tests/core/test_tokens.py", "tests/property/test_prompt.py"),
    "render": (*_PROMPT, "tests/core/test_chat.py"),
    "sampling": ("tests/core/test_sampling.py",),
    "stops": ("tests/core/test_stops.py", "tests/core/test_tool_calls.py", "tests/property/test_answer_split.py"),
    "strict_json": ("tests/core/test_strict_json.py",),
    "text_cache": ("tests/core/test_text_cache.py",),
    "tokens": ("tests/core/test_tokens.py", "tests/property/test_prompt.py"),
    "tool_calls": _ANSWERS,
    "triton.engine.outbox": ("tests/triton/test_outbox.py", "tests/triton/test_outbox_states.py"),
    "typed_json": ("tests/core/test_typed_json.py", "tests/core/test_chat.py", "tests/core/test_chat_tools.py"),
    "vocabulary_files": ("tests/core/test_tokens.py",),
}
