"""A real server of a demo preset with the checkpoint that it serves, and what its engine is asked directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.render import render
from kimi_k2_serving.core.tokens import Vocabulary
from tests.server.running import Server, running

SECTION = "<|tool_calls_section_begin|>"


@contextmanager
def serving(preset: str) -> Iterator[tuple[Server, Path]]:
    with running("--preset", preset) as server:
        yield server, Path(server.ready["checkpoint"])


def conversation(tools: Any, **more: Any) -> Conversation:
    return read_conversation(messages=[{"role": "user", "content": "Call it."}], tools=tools, **more)


def prompt(vocabulary: Vocabulary, asked: Conversation) -> list[int]:
    return list(vocabulary.encode_prompt(render(asked, sort_tool_keys=vocabulary.sort_tool_keys).segments))
