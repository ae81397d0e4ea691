"""URLs that a user gives a command."""

from __future__ import annotations

from collections.abc import Collection

from kimi_k2_client.connect import is_url
from kimi_k2_serving.core.errors import InvalidValue


def checked_url(url: str, schemes: Collection[str], field: str) -> str:
    """The URL, with the first of `schemes` if it has none. Raises InvalidValue for `field`."""
    full = url if "://" in url else f"{next(iter(schemes))}://{url}"
    if not is_url(full, schemes) or not full.isascii() or not full.isprintable() or " " in full:
        raise InvalidValue(f"must be {' or '.join(f'{scheme}://HOST:PORT' for scheme in schemes)}", field=field)
    return full
