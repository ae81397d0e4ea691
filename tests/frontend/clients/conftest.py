"""Clients that nobody here wrote, in an environment of their own (requirements/clients.txt), and a running frontend.

KIMI_K2_CLIENTS_URL is the frontend; KIMI_K2_CLIENTS_SCRIPTED=1 says that it runs over tests.frontend.scripted, so that
answers are known to the letter. KIMI_K2_CLIENTS_TRITON is
Triton's own HTTP, for clients that speak to it. Nothing here imports this project.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

TRITON = os.environ.get("KIMI_K2_CLIENTS_TRITON", "")
URL = os.environ.get("KIMI_K2_CLIENTS_URL", "")
SCRIPTED = os.environ.get("KIMI_K2_CLIENTS_SCRIPTED") == "1"
KEY = "sk-0123456789abcdef"

scripted = pytest.mark.skipif(not SCRIPTED, reason="asks for a known answer: needs the scripted engine")

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "forecast", "description": "The weather", "parameters": PARAMETERS},
}
# What the scripted engine answers with a call; a model is made to call by tool_choice.
CALL = 'call forecast {"city":"Zürich","days":3}'


@pytest.fixture
def url() -> str:
    return URL


def is_forecast(arguments: Any) -> bool:
    return (
        set(arguments) == {"city", "days"}
        and isinstance(arguments["city"], str)
        and isinstance(arguments["days"], int)
        and 1 <= arguments["days"] <= 7
    )
