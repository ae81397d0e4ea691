"""Finds the end of a JSON object in text that arrives in pieces, and says whether the object is valid.

Promises: strict JSON (RFC 8259); the same result however the text is split; linear time. Strings are scanned with
`str.find`, everything else one character at a time with one table. Only open brackets are stored: size and depth are
unbounded. After a fault inside a string (a raw control character, an unknown escape) the object is invalid, but its end
is still found. After any other fault all text belongs to the invalid object. Knows nothing of markers or schemas.
"""

from __future__ import annotations

from typing import Final

_WHITESPACE: Final = " \t\n\r"
_DIGITS: Final = "0123456789"
_HEX: Final = frozenset(_DIGITS + "abcdefABCDEF")
_ESCAPES: Final = frozenset('"\\/bfnrt')

# Values of the escape counter; a positive one is the number of hex digits that must follow.
_NO_ESCAPE: Final = 0
_AFTER_BACKSLASH: Final = -1

# Table entries that do more than change the state. No state has such a name.
_OPEN_OBJECT: Final = "{"
_OPEN_ARRAY: Final = "["
_CLOSE: Final = "}"
_COMMA: Final = ","
_KEY: Final = 'key"'
_STRING: Final = '"'


def _table() -> dict[str, dict[str, str]]:
    """State outside strings -> character -> next state or step. A character without an entry is a fault."""

    def stay(state: str) -> dict[str, str]:
        return dict.fromkeys(_WHITESPACE, state)

    def digits(state: str) -> dict[str, str]:
        return dict.fromkeys(_DIGITS, state)

    after = {",": _COMMA, "}": _CLOSE, "]": _CLOSE, **stay("after")}
    exponent = dict.fromkeys("eE", "exponent")
    number = {**digits("integer"), "0": "zero"}
    value = {'"': _STRING, "{": _OPEN_OBJECT, "[": _OPEN_ARRAY, "-": "minus", **number}
    value |= {"t": "t", "f": "f", "n": "n"}
    table = {
        "start": {"{": _OPEN_OBJECT},
        "first key": {'"': _KEY, "}": _CLOSE, **stay("first key")},
        "next key": {'"': _KEY, **stay("next key")},
        "colon": {":": "value", **stay("colon")},
        "value": {**value, **stay("value")},
        "first value": {**value, "]": _CLOSE, **stay("first value")},
        "after": after,
        "minus": number,
        "zero": {**after, **exponent, ".": "point"},
        "integer": {**after, **exponent, **digits("integer"), ".": "point"},
        "point": digits("fraction"),
        "fraction": {**after, **exponent, **digits("fraction")},
        "exponent": {**dict.fromkeys("+-", "sign"), **digits("power")},
        "sign": digits("power"),
        "power": {**after, **digits("power")},
    }
    for literal in ("true", "false", "null"):
        table[literal] = after
        for length in range(1, len(literal)):
            table[literal[:length]] = {literal[length]: literal[: length + 1]}
    return table


_TABLE: Final = _table()


class ObjectScanner:
    """Scans one JSON object. The first character fed must be the object's: the caller strips whitespace before it.

    started: a character was seen; closed: the last bracket was seen; valid: no fault so far; in_string: inside a
    string.
    """

    __slots__ = ("_broken", "_escape", "_open", "_state", "closed", "in_string", "started", "valid")

    def __init__(self) -> None:
        self.started = False
        self.closed = False
        self.valid = True
        self.in_string = False
        self._state = "start"
        self._escape = _NO_ESCAPE
        self._open: list[str] = []
        self._broken = False

    def feed(self, text: str) -> int:
        """Return how many characters of `text` belong to the object: all, unless it closes. Not for use after that."""
        position, end = 0, len(text)
        # The most frequent case by far: a token of plain text inside a string.
        plain = self.in_string and self._escape == _NO_ESCAPE and '"' not in text and "\\" not in text
        if plain and text.isprintable():
            return end
        self.started = self.started or end > 0
        while position < end and not self.closed:
            if self._broken:
                return end
            position = self._in_string(text, position) if self.in_string else self._outside(text, position)
        return position

    def _outside(self, text: str, position: int) -> int:
        """Read up to a string, the object's end, a fault, or the end of `text`. Return the next position."""
        state = self._state
        for place in range(position, len(text)):
            character = text[place]
            step = _TABLE[state].get(character)
            if step in _TABLE:
                state = step
            elif step is None or not self._take(step, character):
                self.valid, self._broken = False, True
                return len(text)
            elif self.in_string or self.closed:
                return place + 1
            else:
                state = self._state
        self._state = state
        return len(text)

    def _take(self, step: str, character: str) -> bool:
        """Do one step. Return false if a closing bracket does not match the open one."""
        match step:
            case "{":
                self._open.append("}")
                self._state = "first key"
            case "[":
                self._open.append("]")
                self._state = "first value"
            case "}":
                if self._open.pop() != character:
                    return False
                self.closed = not self._open
                self._state = "after"
            case ",":
                self._state = "next key" if self._open[-1] == "}" else "value"
            case _:
                self.in_string = True
                self._state = "colon" if step == _KEY else "after"
        return True

    def _in_string(self, text: str, position: int) -> int:
        """Read up to the closing quote or the end of `text`. Return the next position."""
        end = len(text)
        quote = -1
        while position < end:
            if self._escape != _NO_ESCAPE:
                position += self._in_escape(text[position])
                continue
            # Search only behind the last quote found. Searching at every escape would take quadratic time.
            if quote < position:
                quote = text.find('"', position)
                quote = end if quote < 0 else quote
            backslash = text.find("\\", position, quote)
            stop = quote if backslash < 0 else backslash
            run = text[position:stop]
            if not run.isprintable() and min(run) < " ":
                self.valid = False
            position = min(stop + 1, end)
            if stop == quote:
                self.in_string = quote == end
                return position
            self._escape = _AFTER_BACKSLASH
        return position

    def _in_escape(self, character: str) -> int:
        """Read one character of an escape. Return 1, or 0 if it is not part of the escape and must be read as text."""
        if self._escape == _AFTER_BACKSLASH:
            self._escape = 4 if character == "u" else _NO_ESCAPE
            self.valid = self.valid and (character == "u" or character in _ESCAPES)
            return 1
        if character in _HEX:
            self._escape -= 1
            return 1
        self._escape = _NO_ESCAPE
        self.valid = False
        return 0
