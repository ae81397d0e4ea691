"""The Responses API's custom tools, whose input is plain text, as functions of one string, and back.

K2 calls functions alone, so a custom tool is shown to it as one; the grammar holds its arguments to `{"input": "..."}`.
`FreeformInput` reads the text out of them while they are written.
"""

from __future__ import annotations

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object
from kimi_k2_serving.frontend.origin import Origin

CALL = "custom_tool_call"
KNOWN = ("type", "name", "description", "format")
UNREAD = "left out: it is no grammar that could be shown to the model"
UNHELD = "is shown to the model and not enforced"
REPLACEMENT = "\ufffd"
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def parameters(form: Json, path: str, origin: Origin) -> Json:
    """The schema of a tool's one argument. `form` is its `format`: a grammar there is told to the model."""
    meaning = "The input of this tool, as plain text."
    if isinstance(form, dict) and isinstance(definition := form.get("definition"), str):
        origin.leave_out(f"{path}.format", UNHELD)
        meaning = f"{meaning} It follows this grammar ({form.get('syntax')}):\n{definition}"
    elif form is not None and form != {"type": "text"}:
        origin.leave_out(f"{path}.format", UNREAD)
    argument: Object = {"type": "string", "description": meaning}
    return {"type": "object", "properties": {"input": argument}, "required": ["input"], "additionalProperties": False}


class FreeformInput:
    """`feed` takes pieces of `{"input": "..."}`, however they are cut, and gives what is new of the text inside."""

    def __init__(self) -> None:
        # Two are the key's, the third opens the text and the fourth ends it.
        self._quotes = 0
        self._escape = ""
        # The first half of a character that JSON writes as two escapes.
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
        """A half whose other half did not come is no character."""
        half, self._half = self._half, 0
        return REPLACEMENT if half else ""
