"""A small typed client for Kimi K2 on Triton.

from kimi_k2_client import Client, ContentDelta

with Client("http://127.0.0.1:8000") as client, client.chat_stream("Hello") as events:
    for event in events:
        if isinstance(event, ContentDelta):
            print(event.text, end="", flush=True)
"""

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
from kimi_k2_client.client import AsyncClient, Client
from kimi_k2_client.errors import (
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    KimiError,
    NotFound,
    Quarantined,
    ServerFault,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from kimi_k2_client.retry import Retry
from kimi_k2_client.stream import AsyncStream, Stream
from kimi_k2_client.transport import Model
from kimi_k2_serving.core.events import FinishReason
from kimi_k2_serving.core.messages import ToolCall

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
    "Stream",
    "TokensAnswer",
    "TokensDelta",
    "TokensEvent",
    "ToolCall",
    "ToolCallDelta",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "Usage",
    "collect",
    "collect_tokens",
]
