"""Files that a user names: their text, or an error that has the file's name and the reason."""

from __future__ import annotations

from pathlib import Path

from kimi_k2_serving.core.errors import InvalidValue


def read_text(path: Path, field: str) -> str:
    """Raises InvalidValue for `field` if it can't be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidValue(f"{path} can't be read: {error.strerror}", field=field) from None
    except UnicodeDecodeError:
        raise InvalidValue(f"{path} is not UTF-8 text", field=field) from None
