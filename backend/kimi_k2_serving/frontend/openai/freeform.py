"""Translates custom tools of the Responses API, whose input is plain text, to functions with one string, and back.

K2 only calls functions, so the prompt shows a custom tool as a function. The grammar limits its arguments to `{"input":
"..."}`, and `FreeformInput` extracts the text from them while they arrive.
"""

from __future__ import annotations

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object
from kimi_k2_serving.frontend.origin import Origin

CALL = "custom_tool_call"
KNOWN = ("type", "name", "description", "format")
UNREAD = "left out: it is not a grammar that can be shown to the model"
UNHELD = "is shown to the model but not enforced"
REPLACEMENT = "\ufffd"
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def parameters(form: Json, path: str, origin: Origin) -> Json:
    """The schema of a custom tool's arguments. `form` is its `format`; a grammar in it goes into the description."""
    meaning = "The input of this tool, as plain text."
    if isinstance(form, dict) and isinstance(definition := form.get("definition"), str):
        origin.leave_out(f"{path}.format", UNHELD)
        meaning = f"{meaning} It follows this grammar ({form.get('syntax')}):\n{definition}"
    elif form is not None and form != {"type": "text"}:
        origin.leave_out(f"{path}.format", UNREAD)
    argument: Object = {"type": "string", "description": meaning}
    return {"type": "object", "properties": {"input": argument}, "required": ["input"], "additionalProperties": False}


class FreeformInput:
    """`feed` takes the next piece of `{"input": "..."}`, cut anywhere, and returns the new text inside it."""

    def __init__(self) -> None:
        # Quotes so far: two around the key, the third opens the text, the fourth closes it.
        self._quotes = 0
        self._escape = ""
        # The high surrogate of a character that JSON writes as two escapes.
        self._half = 0

    def feed(self, fragment: str) -> str:
        return "".join(map(self._next, fragment))

    def _next(self, letter: str) -> str:
        if self._escape:
            self._escape += letter
            return self._unescaped()
        if self._quotes != 3:
            self._quotes += letter == '"'
            return ""
        if letter == "\\":
            self._escape = letter
            return ""
        if letter == '"':
            self._quotes += 1
            return self._alone()
        return self._alone() + letter

    def _unescaped(self) -> str:
        kind = self._escape[1]
        if kind != "u":
            self._escape = ""
            return self._alone() + _SIMPLE.get(kind, kind)
        if len(self._escape) < 6:
            return ""
        digits, self._escape = self._escape[2:], ""
        if not _HEXADECIMAL.issuperset(digits):
            return self._alone() + REPLACEMENT
        code = int(digits, 16)
        if 0xD800 <= code < 0xDC00:
            alone, self._half = self._alone(), code
            return alone
        if 0xDC00 <= code < 0xE000:
            half, self._half = self._half, 0
            return chr(0x10000 + ((half - 0xD800) << 10) + code - 0xDC00) if half else REPLACEMENT
        return self._alone() + chr(code)

    def _alone(self) -> str:
        """U+FFFD if a high surrogate was not followed by a low one, else nothing."""
        half, self._half = self._half, 0
        return REPLACEMENT if half else ""
