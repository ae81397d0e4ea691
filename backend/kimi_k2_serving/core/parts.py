"""Content of tool results and other history, as text. The client can't take it back, so no kind of content is refused.

Raises no error. The text of every known kind of part is used as it is; a part without text becomes one sentence. Other
JSON stays JSON text, but parts next to it do not: an image as JSON text is a prompt of 100,000 tokens. It knows the
parts of all dialects, because gateways mix them. Linear. Rule P14 of docs/kimi_k2_format.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object

# Part type -> the key of its text.
TEXTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
    "tool_reference": "tool_name",
}
_NAMES = {
    "image": "an image",
    "image_url": "an image",
    "input_image": "an image",
    "computer_screenshot": "an image",
    "document": "a document",
    "file": "a file",
    "input_file": "a file",
    "container_upload": "a file",
    "audio": "a recording",
    "input_audio": "a recording",
    "video_url": "a video",
}


# All types of parts. An object of any other type is not a part but a tool's result in JSON.
KNOWN = frozenset({*TEXTS, *_NAMES, "search_result", "resource", "resource_link"})
# Keys of an MCP server's result next to its `content`. They are meant for the client, or repeat a text of the content.
_HIDDEN = ("_meta",)
_COPY = "structuredContent"


def absent(kind: str) -> str:
    """The sentence that replaces a part which this model can't read."""
    return f"[{_NAMES.get(kind, 'something')} was here; this model reads text only]"


def result_text(value: Json) -> str:
    """A tool's result as text: content as in `content_text`, or other JSON, which stays JSON text."""
    if isinstance(value, list) and not (all(map(_is_part, value)) or any(map(_has_parts, value))):
        return _json(value)
    return content_text(value)


def content_text(value: Json) -> str:
    """Content of history as text: a string, null, parts, one part, or an MCP server's result. Other values become JSON
    text.
    """
    if isinstance(value, list):
        return joined(map(_item_text, value))
    if isinstance(value, dict) and not _has_parts(value):
        return _json(value)
    return _item_text(value)[0]


def part_text(part: Json) -> tuple[str, bool]:
    """Return (the part's text, whether it goes on a line of its own)."""
    if part is None or isinstance(part, str):
        return part or "", False
    if not isinstance(part, dict) or not isinstance(kind := part.get("type"), str):
        return _json(part), True
    if kind in TEXTS:
        text = part.get(TEXTS[kind])
        return text if isinstance(text, str) else "" if text is None else _json(text), False
    texts = list(_texts(part))
    return ("\n".join(texts), True) if texts else (absent(kind), True)


def is_known(value: Json) -> bool:
    """Whether `value` is certainly a part, and not a tool's JSON that happens to have a `type`."""
    return isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind in KNOWN


def known_parts(value: Json) -> list[Json]:
    """The `content` of an MCP server's result if it has parts, else nothing."""
    content = value.get("content") if isinstance(value, dict) and not is_known(value) else None
    return content if isinstance(content, list) and any(map(is_known, content)) else []


def _is_part(value: Json) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("type"), str))


def _has_parts(value: Json) -> bool:
    return is_known(value) or bool(known_parts(value))


def _item_text(value: Json) -> tuple[str, bool]:
    """The text of a part or of an MCP server's result. A result's other keys follow its content as JSON text."""
    content = known_parts(value)
    if not content or not isinstance(value, dict):
        return part_text(value)
    has_text = any(isinstance(part, dict) and part.get("type") == "text" for part in content)
    skipped = {"content", *_HIDDEN, *((_COPY,) if has_text else ())}
    rest: Object = {
        key: each for key, each in value.items() if key not in skipped and each is not None and each is not False
    }
    pieces = [*map(part_text, content), *([(_json(rest), True)] if rest else ())]
    return joined(pieces), True


def _json(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def joined(pieces: Iterable[tuple[str, bool]]) -> str:
    """Join the pieces without a separator, as the template does; those with a true flag get lines of their own."""
    written: list[str] = []
    apart = False
    for text, alone in pieces:
        if written and (alone or apart) and not written[-1].endswith("\n"):
            written.append("\n")
        if text:
            written.append(text)
        apart = alone
    return "".join(written)


def _texts(source: Object) -> Iterator[str]:
    """The texts of a document, a search result or an embedded resource; none if it has no readable content."""
    inner = list(_inner(source))
    if inner:
        for name in ("title", "source", "context"):
            value = source.get(name)
            if isinstance(value, str) and value:
                yield value
    yield from inner


def _inner(source: Object) -> Iterator[str]:
    for holder in (source, source.get("source"), source.get("resource")):
        if not isinstance(holder, dict):
            continue
        text = holder.get("text")
        if holder.get("type") == "text" and isinstance(holder.get("data"), str):
            text = holder["data"]
        if isinstance(text, str) and text:
            yield text
        content = holder.get("content")
        if isinstance(content, str):
            yield content
        for each in content if isinstance(content, list) else ():
            kind = each.get("type") if isinstance(each, dict) else None
            if isinstance(each, dict) and isinstance(kind, str) and kind in TEXTS:
                found = each.get(TEXTS[kind])
                if isinstance(found, str) and found:
                    yield found
            elif isinstance(each, dict):
                yield absent(str(each.get("type")))
