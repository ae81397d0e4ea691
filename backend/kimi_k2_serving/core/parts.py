"""Content of tool results and other history, as text. The client can't take it back, so no kind of content is refused.

The text of every known kind of part is used as it is; a part without text becomes one sentence. Knows the parts of all
dialects, because gateways mix them. Linear. Rule P14 of docs/kimi_k2_format.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from kimi_k2_serving.core.errors import InvalidType
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.typed_json import Object, as_object, as_string, required

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
_KNOWN = frozenset({*TEXTS, *_NAMES, "search_result", "resource", "resource_link"})


def absent(kind: str) -> str:
    """The sentence that replaces a part which this model can't read."""
    return f"[{_NAMES.get(kind, 'something')} was here; this model reads text only]"


def result_text(value: Json, path: str) -> str:
    """A tool's result as text. It is content as in `tool_text`, a single part, or other JSON, which stays JSON text."""
    if isinstance(value, dict) and (value.get("type") in _KNOWN):
        value = [value]
    elif not (value is None or isinstance(value, str) or (isinstance(value, list) and all(map(_is_part, value)))):
        return json.dumps(value, ensure_ascii=False)
    return tool_text(value, path)


def _is_part(value: Json) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("type"), str))


def tool_text(value: Json, path: str) -> str:
    """Content of history: a string, null, or a list of parts. Raises InvalidType or MissingField for anything else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidType("must be a string, an array of parts, or null", field=path)
    return joined(tool_part(part, f"{path}[{i}]") for i, part in enumerate(value))


def tool_part(part: Json, path: str) -> tuple[str, bool]:
    """Return (the part's text, whether it goes on a line of its own)."""
    if isinstance(part, str):
        return part, False
    source = as_object(part, path)
    kind = as_string(required(source, "type", path), f"{path}.type")
    if kind in TEXTS:
        return as_string(required(source, TEXTS[kind], path), f"{path}.{TEXTS[kind]}"), False
    texts = list(_texts(source))
    return ("\n".join(texts), True) if texts else (absent(kind), True)


def joined(pieces: Iterator[tuple[str, bool]]) -> str:
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
            if isinstance(each, dict) and each.get("type") in TEXTS:
                found = each.get(TEXTS[str(each["type"])])
                if isinstance(found, str) and found:
                    yield found
            elif isinstance(each, dict):
                yield absent(str(each.get("type")))
