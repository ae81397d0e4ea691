"""Finds and reads a checkpoint's chat template.

It is chat_template.jinja, else the `chat_template` of tokenizer_config.json. A refusal quotes what a template renders,
so a file outside the checkpoint is never read as a template. A link may lead only to a file inside the checkpoint, or
from a snapshot of a Hugging Face cache to a blob of the same cache (`../../blobs/HASH`, as in downloads). A file that
exists but can't be used is refused with its name, so that a checkpoint never seems to have no template.
"""

from __future__ import annotations

import json
import os
import string
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.core.errors import InvalidValue, NotFound

TEMPLATE = "chat_template.jinja"
SETTINGS = "tokenizer_config.json"
TEMPLATE_BYTES = 1 << 20
# A blob is named by its SHA-1 (files in git) or its SHA-256 (large files).
_HASH_CHARACTERS = (40, 64)


@dataclass(frozen=True, slots=True)
class Template:
    """`source`: the name of the file that has it."""

    text: str
    source: str


def read_template(checkpoint: Path) -> Template | None:
    """The checkpoint's template, or None if it has none. Raises NotFound or InvalidValue, which name the file."""
    file = _find(checkpoint, TEMPLATE)
    if file is not None:
        _require_inside(file, checkpoint, TEMPLATE)
        data = _read(file, TEMPLATE, TEMPLATE_BYTES + 1)
        if len(data) > TEMPLATE_BYTES:
            raise InvalidValue(f"has more than {TEMPLATE_BYTES} bytes", field=TEMPLATE)
        try:
            return Template(data.decode("utf-8"), TEMPLATE)
        except UnicodeDecodeError:
            raise InvalidValue("is not valid UTF-8; copy the file again", field=TEMPLATE) from None
    file = _find(checkpoint, SETTINGS)
    text = _from_settings(_read(file, SETTINGS)) if file is not None else None
    if file is None or text is None:
        return None
    _require_inside(file, checkpoint, SETTINGS)
    return Template(text, SETTINGS)


def _from_settings(data: bytes) -> str | None:
    try:
        settings = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidValue("is not valid JSON; copy the file again", field=SETTINGS) from None
    found = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(found, list):
        named = [each for each in found if isinstance(each, dict) and each.get("name") == "default"]
        found = named[-1].get("template") if named else None
    return found if isinstance(found, str) else None


def _find(checkpoint: Path, name: str) -> Path | None:
    """The regular file that the name leads to, with all links followed. None if nothing has this name."""
    try:
        os.lstat(checkpoint / name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        raise _unreadable(name) from None
    try:
        file = Path(os.path.realpath(checkpoint / name, strict=True))
        regular = file.is_file()
    except FileNotFoundError:
        raise NotFound("is a link to a file that is not there; copy the file again", field=name) from None
    except OSError:
        raise _unreadable(name) from None
    if not regular:
        raise InvalidValue("is not a regular file; copy the file again", field=name)
    return file


def _require_inside(file: Path, checkpoint: Path, name: str) -> None:
    root = Path(os.path.realpath(checkpoint))
    if not (file.is_relative_to(root) or _is_blob(file, root)):
        detail = "is a link to a file outside the checkpoint; copy the file into the checkpoint"
        raise InvalidValue(detail, field=name)


def _is_blob(file: Path, root: Path) -> bool:
    """Whether the file is a blob of the Hugging Face cache that has the checkpoint as `snapshots/REVISION`."""
    if root.parent.name != "snapshots" or file.parent != Path(os.path.realpath(root.parent.parent / "blobs")):
        return False
    return len(file.name) in _HASH_CHARACTERS and set(file.name) <= set(string.hexdigits)


def _read(file: Path, name: str, size: int = -1) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(size)
    except OSError:
        raise _unreadable(name) from None


def _unreadable(name: str) -> NotFound:
    return NotFound("cannot be read; check the checkpoint's permissions", field=name)
