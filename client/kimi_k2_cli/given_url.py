"""URLs that a user gives a command."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from kimi_k2_serving.core.errors import InvalidValue


def checked_url(url: str, schemes: Collection[str], field: str) -> str:
    """The URL, with the first of `schemes` if it has none. Raises InvalidValue for `field`."""
    full = url if "://" in url else f"{next(iter(schemes))}://{url}"
    try:
        parts = urlsplit(full)
        is_valid = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # A port that is no number, a bracket that is not closed.
        is_valid = False
    if not is_valid or not full.isascii() or not full.isprintable() or " " in full:
        raise InvalidValue(f"must be {' or '.join(f'{scheme}://HOST:PORT' for scheme in schemes)}", field=field)
    return full
