"""Resolves the references of one schema document: `$id`, anchors and JSON pointers, of every draft.

This module knows schemas by the address at which the client wrote them; `schema` maps it to the place in the rewritten
document. A reference is resolved against the nearest `$id`, as the specification says. If that leads nowhere, it is
resolved against the whole document, because generated schemas often ignore their own `$id`s. Nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

Steps = tuple[str, ...]
"""An address in the document as the client wrote it: keywords, names and indices, all of them text."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`dynamic`: a `$dynamicRef` or `$recursiveRef`, whose target the outermost resource may override."""

    text: str
    base: str
    dynamic: bool = False


class Places:
    """The addresses of the resources and anchors of one document."""

    def __init__(self) -> None:
        self._resources: dict[str, Steps] = {"": ()}
        self._anchors: dict[tuple[str, str], Steps] = {}
        self._dynamic: dict[tuple[str, str], Steps] = {}
        self._root = ""

    def enter(self, schema: Mapping[str, Any], base: str, steps: Steps) -> str:
        """Record the `$id` and the anchors of the schema at `steps`; returns the base of the references inside it."""
        for keyword in ("$id", "id"):
            name = schema.get(keyword)
            if isinstance(name, str):
                address, fragment = urldefrag(name)
                if address:
                    base = self._join(base, address)
                    self._resources.setdefault(base, steps)
                if fragment:
                    self._anchors.setdefault((base, fragment), steps)
        if not steps:
            self._root = base
            self._resources[base] = steps
        for keyword in ("$anchor", "$dynamicAnchor"):
            name = schema.get(keyword)
            if isinstance(name, str):
                self._anchors.setdefault((base, name), steps)
                if keyword == "$dynamicAnchor":
                    self._dynamic.setdefault((base, name), steps)
        if schema.get("$recursiveAnchor") is True:
            self._dynamic.setdefault((base, ""), steps)
        return base

    def candidates(self, reference: Reference) -> list[Steps]:
        """The addresses to which a reference may lead, the most likely first."""
        address, fragment = urldefrag(reference.text)
        base = self._join(reference.base, address) if address else reference.base
        fragment = unquote(fragment)
        found: list[Steps] = []
        for each in dict.fromkeys((base, address, self._root, "")):
            root = self._resources.get(each)
            if root is None or (address and each not in (base, address)):
                continue
            if reference.dynamic and not found and (each, fragment) in self._dynamic:
                # The outermost resource with the anchor wins. Unless that is the root, it depends on the path of
                # evaluation, so the reference is refused if several resources have the anchor.
                if (self._root, fragment) in self._dynamic:
                    return [self._dynamic[self._root, fragment]]
                if sum(name == fragment for _, name in self._dynamic) > 1:
                    return []
            if (each, fragment) in self._anchors:
                found.append(self._anchors[each, fragment])
            if not fragment or fragment.startswith("/"):
                found.append(root + tuple(map(_unescaped, fragment.split("/")[1:])))
        found += [steps for (_, name), steps in self._anchors.items() if name == fragment and not address]
        return found

    @staticmethod
    def _join(base: str, address: str) -> str:
        return urljoin(base, address) if not base.startswith("urn:") else address


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def pointer_text(pointer: tuple[str | int, ...]) -> str:
    """A pointer as text, `#/a/b`, escaped so that any validator resolves it."""
    steps = (quote(str(step).replace("~", "~0").replace("/", "~1"), safe="~") for step in pointer)
    return "".join(("#", *(f"/{step}" for step in steps)))
