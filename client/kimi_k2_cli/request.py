"""Reads an OpenAI chat request from standard input, for the commands that take one."""

from __future__ import annotations

from kimi_k2_cli.given_file import read_stdin
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.messages import Conversation
from kimi_k2_serving.core.typed_json import as_flag, as_object


def from_stdin() -> Conversation:
    """Read the request. Fields that do not affect the prompt are ignored. Raises leaves of InvalidRequest that name the
    field.
    """
    request = as_object(strict_json.loads(read_stdin(), field="stdin"), "stdin")
    return read_conversation(
        messages=request.get("messages"),
        tools=request.get("tools"),
        tool_choice=request.get("tool_choice"),
        response_format=request.get("response_format"),
        parallel_tool_calls=as_flag(request.get("parallel_tool_calls"), "parallel_tool_calls", default=True),
        continue_final_message=as_flag(request.get("continue_final_message"), "continue_final_message", default=False),
    )
