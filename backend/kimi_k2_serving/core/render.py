"""Renders a conversation to the model's prompt: segments that are either a control token or text.

It equals the 0905 chat template (revision 94a4053 or later), but makes segments instead of one string. Everything that
a client sends becomes Text, which is encoded with control tokens switched off, so no field can forge a control token.
Adjacent texts form one Text, because a token may span them. Linear. It knows no token ids. Rules P1 to P12 of
docs/kimi_k2_format.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from kimi_k2_serving.core.history import normalise
from kimi_k2_serving.core.messages import Conversation, Message, Role, Tool, ToolCall

DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."


@dataclass(frozen=True, slots=True)
class Control:
    """One control token, by its name in the checkpoint."""

    name: str


@dataclass(frozen=True, slots=True)
class Text:
    """Ordinary text, never empty. `<|im_end|>` in it is just ten characters."""

    text: str


Segment = Control | Text


@dataclass(frozen=True, slots=True)
class Prompt:
    """`first_call_index` is the number n in the id `functions.{name}:{n}` of the answer's first call."""

    segments: tuple[Segment, ...]
    first_call_index: int

    def text(self) -> str:
        """The prompt for people to read. Here a control token looks the same as text with its spelling."""
        return "".join(part.name if isinstance(part, Control) else part.text for part in self.segments)


SYSTEM = Control("<|im_system|>")
USER = Control("<|im_user|>")
ASSISTANT = Control("<|im_assistant|>")
MIDDLE = Control("<|im_middle|>")
END = Control("<|im_end|>")
SECTION_BEGIN = Control("<|tool_calls_section_begin|>")
SECTION_END = Control("<|tool_calls_section_end|>")
CALL_BEGIN = Control("<|tool_call_begin|>")
ARGUMENT_BEGIN = Control("<|tool_call_argument_begin|>")
CALL_END = Control("<|tool_call_end|>")
# In 0905's template the `{% endif %}` after the default system prompt has no dash, so the line break after it is part
# of the prompt. No other message has a line break after it.
AFTER_DEFAULT_SYSTEM = Text("\n")

_OPENING = {Role.SYSTEM: SYSTEM, Role.USER: USER, Role.ASSISTANT: ASSISTANT, Role.TOOL: SYSTEM}
_HEADER: dict[Role, tuple[Segment, ...]] = {
    role: (opening, Text(role.value), MIDDLE) for role, opening in _OPENING.items()
}


@dataclass(frozen=True, slots=True)
class Form:
    """The known differences between checkpoints, which `engine/template_probe` detects. The defaults are 0905's.

    line_break: one follows the default system message; sort_tool_keys: tool declarations are shown with sorted keys.
    """

    line_break: bool = True
    sort_tool_keys: bool = False

    def prompt(self, conversation: Conversation) -> Prompt:
        """Render the conversation in this form."""
        return render(conversation, sort_tool_keys=self.sort_tool_keys, line_break=self.line_break)


FORM_0905 = Form()


def render(conversation: Conversation, *, sort_tool_keys: bool = False, line_break: bool = True) -> Prompt:
    """The whole prompt, up to and including the header of the answer and the part of the answer that the client has
    given. The options are the fields of `Form`.

    Raises InvalidValue for a tool result without a call.
    """
    history = normalise(conversation.messages)
    segments: list[Segment] = []
    if conversation.tools:
        segments += (SYSTEM, Text("tool_declare"), MIDDLE, Text(tools_json(conversation.tools, sort_tool_keys)), END)
    if history.messages and history.messages[0].role is not Role.SYSTEM:
        _add_message(segments, Message(Role.SYSTEM, DEFAULT_SYSTEM))
        if line_break:
            segments.append(AFTER_DEFAULT_SYSTEM)
    for message in history.messages:
        _add_message(segments, message)
    if conversation.continues:
        segments.pop()  # The end of the last message.
    else:
        segments += _HEADER[Role.ASSISTANT]
    return Prompt(tuple(segments), history.next_index)


def tools_json(tools: tuple[Tool, ...], sort_keys: bool) -> str:
    """The declarations in the request's order. Keys keep the client's order unless the checkpoint sorts them."""
    declarations = [tool.declaration for tool in tools]
    return json.dumps(declarations, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)


def _add_message(segments: list[Segment], message: Message) -> None:
    """Append a message. Its header is precomputed, because this runs for every message of every turn."""
    role, content = message.role, message.content
    segments += (_OPENING[role], Text(message.name), MIDDLE) if message.name else _HEADER[role]
    if role is Role.TOOL:
        content = f"## Return of {message.tool_call_id}\n{content}"
    if content:
        segments.append(Text(content))
    if message.tool_calls:
        segments.append(SECTION_BEGIN)
        for call in message.tool_calls:
            _add_call(segments, call)
        segments.append(SECTION_END)
    segments.append(END)


def _add_call(segments: list[Segment], call: ToolCall) -> None:
    segments += (CALL_BEGIN, Text(call.id), ARGUMENT_BEGIN)
    if call.arguments:
        segments.append(Text(call.arguments))
    segments.append(CALL_END)
