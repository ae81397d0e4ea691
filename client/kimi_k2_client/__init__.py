"""A small typed client for Kimi K2 on Triton.

from kimi_k2_client import Client, ContentDelta

with Client("http://127.0.0.1:8000") as client, client.chat_stream("Hello", max_tokens=64) as events:
    for event in events:
        if isinstance(event, ContentDelta):
            print(event.text, end="", flush=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_k2_client.answer import (
    ChatAnswer,
    ChatEvent,
    ContentDelta,
    Finished,
    TokensAnswer,
    TokensDelta,
    TokensEvent,
    ToolCallDelta,
    Usage,
    collect,
    collect_tokens,
)
from kimi_k2_client.client import Client
from kimi_k2_client.errors import (
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    KimiError,
    NotFound,
    Quarantined,
    ServerFault,
    TooManyRounds,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    WrongPort,
)
from kimi_k2_client.functions import ToolError
from kimi_k2_client.retry import Retry
from kimi_k2_client.stream import AsyncStream, Stream
from kimi_k2_client.tool_loop import ToolRun
from kimi_k2_client.transport import Model, ServerHealth, Stats
from kimi_k2_serving import __version__
from kimi_k2_serving.core.events import FinishReason
from kimi_k2_serving.core.messages import ToolCall

if TYPE_CHECKING:
    from kimi_k2_client.async_client import AsyncClient

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "ChatAnswer",
    "ChatEvent",
    "Client",
    "ConnectionLost",
    "ContentDelta",
    "DeadlineExceeded",
    "FinishReason",
    "Finished",
    "InvalidRequest",
    "KimiError",
    "Model",
    "NotFound",
    "Quarantined",
    "Retry",
    "ServerFault",
    "ServerHealth",
    "Stats",
    "Stream",
    "TokensAnswer",
    "TokensDelta",
    "TokensEvent",
    "TooManyRounds",
    "ToolCall",
    "ToolCallDelta",
    "ToolError",
    "ToolRun",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "Usage",
    "WrongPort",
    "__version__",
    "collect",
    "collect_tokens",
]


def __getattr__(name: str) -> Any:
    """Load AsyncClient when it is first used. It needs asyncio, whose import takes as long as that of the rest."""
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kimi_k2_client.async_client import AsyncClient

    return AsyncClient


def __dir__() -> list[str]:
    return sorted(__all__)
