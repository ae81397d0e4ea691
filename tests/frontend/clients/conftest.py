"""Clients that nobody here wrote, in an environment of their own (requirements/clients.txt), and a running frontend.

`scripts/test-clients` runs these. KIMI_K2_CLIENTS_URL is the frontend, whose one key is KEY. Tests marked `scripted`
ask for an answer known to the letter and need it to run over tests.frontend.scripted; tests marked `triton` speak to
Triton's own HTTP, KIMI_K2_CLIENTS_TRITON. Nothing here imports this project.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

TRITON = os.environ.get("KIMI_K2_CLIENTS_TRITON", "")
URL = os.environ.get("KIMI_K2_CLIENTS_URL", "")
KEY = "sk-0123456789abcdef"

scripted = pytest.mark.scripted

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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scripted: asks for a known answer: needs the scripted engine")
    config.addinivalue_line("markers", "triton: speaks to Triton's own HTTP")


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
