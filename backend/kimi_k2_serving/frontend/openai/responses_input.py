"""Translates input items of the Responses API to chat messages. A call follows its text; K2 has both in one message.

Clients can't change what a tool or another server put into the history. So such an item is never refused. It is read or
replaced by a sentence.
"""

from __future__ import annotations

import json

from kimi_k2_serving.chat import below
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, MissingField, Unsupported
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.parts import absent, is_known, part_text, result_text
from kimi_k2_serving.core.typed_json import Object, as_list, as_object, as_string, one_of, required
from kimi_k2_serving.frontend.openai.responses_tools import Tools
from kimi_k2_serving.frontend.origin import Origin

NOTHING_STORED = "this server stores nothing (AI SDK: set store: false)"
ROLES = ("user", "assistant", "system", "developer")
# Items without a place in the prompt: reasoning, and the bookkeeping of other servers.
DROPPED = frozenset({"reasoning", "mcp_list_tools", "mcp_approval_request"})
# Parts of the conversation that can be read only by the server that wrote them.
SEALED = frozenset({"compaction", "compaction_summary"})
UNSEALED = "left out: only the server that wrote it can read it; send the items that it replaces"
MESSAGE = frozenset(
    {"type", "role", "content", "id", "status", "phase", "end_turn", "internal_chat_message_metadata_passthrough"}
)
CALL = frozenset({"type", "call_id", "id", "status", "name", "namespace", "arguments", "input", "action", "caller"})
OUTPUT = frozenset({"type", "call_id", "id", "status", "output", "name", "caller"})


def read_input(value: Json, tools: Tools, origin: Origin, first: int) -> list[Json]:
    """Read the input as chat messages. `first`: the number of messages before these."""
    if value is None:
        raise MissingField("is required", field="input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    items = as_list(value, "input")
    if not items:
        raise InvalidValue("must have at least one item", field="input")
    reader = _Reader(tools, origin, first)
    for i, item in enumerate(items):
        reader.add(as_object(item, f"input[{i}]"), f"input[{i}]")
    return reader.messages or [{"role": "user", "content": ""}]


class _Reader:
    def __init__(self, tools: Tools, origin: Origin, first: int) -> None:
        self.messages: list[Json] = []
        self._tools = tools
        self._origin = origin
        self._first = first

    def add(self, source: Object, path: str) -> None:
        kind = source.get("type")
        if kind is None and "id" in source and "role" not in source:
            kind = "item_reference"
        if kind is None or kind == "message":
            self._message(source, path)
        elif not isinstance(kind, str):
            raise InvalidType("must be a string", field=f"{path}.type")
        elif kind in DROPPED:
            pass
        elif kind in SEALED:
            self._origin.leave_out(path, UNSEALED)
        elif kind == "item_reference":
            detail = f"{NOTHING_STORED}; send the items themselves instead of references"
            raise Unsupported(detail, field=f"{path}.type")
        elif kind.endswith("_call") and (kind == "function_call" or "call_id" in source):
            self._call(source, kind, path)
        elif kind.endswith("_output") and (kind == "function_call_output" or "call_id" in source):
            self._output(source, path)
        elif is_known(source):
            raise Unsupported("this is a part, not an item; put it into the content of a message", field=f"{path}.type")
        else:
            self._push({"role": "assistant", "content": part_text(source)[0]}, path)

    def _push(self, message: Json, path: str) -> str:
        """Append the message. Returns its path in the chat request."""
        ours = f"messages[{self._first + len(self.messages)}]"
        self._origin.place(ours, path)
        self.messages.append(message)
        return ours

    def _message(self, source: Object, path: str) -> None:
        self._origin.ignore(source, path, MESSAGE)
        role = one_of(required(source, "role", path), ROLES, f"{path}.role")
        content = source.get("content") if role == "assistant" else required(source, "content", path)
        below.check_part_fields(content, f"{path}.content", self._origin)
        self._push({"role": role, "content": content}, path)

    def _call(self, source: Object, kind: str, path: str) -> None:
        """Read a call of any tool. Tools other than functions have `input` or `action` instead of `arguments`."""
        self._origin.ignore(source, path, CALL)
        given = source.get("arguments")
        if kind == "function_call":
            name = as_string(required(source, "name", path), f"{path}.name")
        else:
            name = str(source.get("name") or kind.removesuffix("_call"))
        if kind != "function_call" and not isinstance(given, str):
            kept = {key: source[key] for key in ("arguments", "input", "action") if source.get(key) is not None}
            given = json.dumps(kept, ensure_ascii=False)
        if isinstance(source.get("namespace"), str):
            name = self._tools.full_name(str(source["namespace"]), name)
        last = self.messages[-1] if self.messages else None
        if not isinstance(last, dict) or last["role"] != "assistant":
            last = {"role": "assistant", "content": None}
            self._push(last, path)
        calls = last.setdefault("tool_calls", [])
        assert isinstance(calls, list)
        ours = f"messages[{self._first + len(self.messages) - 1}].tool_calls[{len(calls)}]"
        self._origin.place(ours, path)
        self._origin.place(f"{ours}.id", f"{path}.call_id")
        self._origin.place(f"{ours}.function", path)
        function: Json = {"name": name, "arguments": given}
        calls.append({"id": required(source, "call_id", path), "type": "function", "function": function})

    def _output(self, source: Object, path: str) -> None:
        self._origin.ignore(source, path, OUTPUT)
        output = source.get("output")
        known = output is not None or source["type"] in ("function_call_output", "custom_tool_call_output")
        below.check_part_fields(output, f"{path}.output", self._origin)
        text = result_text(output) if known else absent("")
        ours = self._push({"role": "tool", "tool_call_id": required(source, "call_id", path), "content": text}, path)
        self._origin.place(f"{ours}.tool_call_id", f"{path}.call_id")
