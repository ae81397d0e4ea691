"""A grammar for the rest of an answer that has begun: its matcher is advanced over the text that is given.

The structural tag carries that text as its last key, `prefix`, which SGLang does not know: `Continuing` takes it out
again in the scheduler's process. Imports xgrammar, and of SGLang only what it is given.
"""

from __future__ import annotations

import json
from typing import Any

import xgrammar

PREFIX = "prefix"


def with_prefix(tag: str, prefix: str) -> str:
    """The structural tag for the rest of an answer that begins with `prefix`."""
    return f"{tag[:-1]}, {json.dumps(PREFIX)}: {json.dumps(prefix)}}}" if prefix else tag


def without_prefix(tag: str) -> tuple[str, str]:
    """(the structural tag of the whole answer, the text that is given). Raises ValueError for text that is no JSON."""
    if f'"{PREFIX}"' not in tag:
        return tag, ""
    document = json.loads(tag)
    prefix = document.pop(PREFIX, "") if isinstance(document, dict) else ""
    if not prefix or not isinstance(prefix, str):
        return tag, ""
    return json.dumps(document), prefix


def accepts(compiled: xgrammar.CompiledGrammar, prefix: str) -> bool:
    """Whether an answer may begin with this text."""
    return bool(xgrammar.GrammarMatcher(compiled).accept_string(prefix))


class Continuing:
    """`dispatch_structural_tag` and `set_cache` of an SGLang grammar backend, for tags with a prefix, too.

    `invalid` makes SGLang's object for a grammar that can't be used. Grammars of the whole answer are cached as usual;
    those of a rest are not, because hardly any two requests continue the same text.
    """

    def __init__(self, backend: Any, invalid: Any) -> None:
        self._backend = backend
        self._invalid = invalid
        self._dispatch = backend.dispatch_structural_tag
        self._set_cache = backend.set_cache
        backend.dispatch_structural_tag = self.dispatch_structural_tag
        backend.set_cache = self.set_cache

    def dispatch_structural_tag(self, tag: str) -> Any:
        try:
            whole, prefix = without_prefix(tag)
        except (ValueError, RecursionError):
            return self._dispatch(tag)
        if not prefix:
            return self._dispatch(tag)
        known = self._backend.cache.get(("structural_tag", whole))
        grammar = self._dispatch(whole) if known is None else known.copy()
        if getattr(grammar, "matcher", None) is None:
            return grammar
        if known is None:
            self._set_cache(("structural_tag", whole), grammar.copy())
        if not grammar.matcher.accept_string(prefix):
            return self._invalid("the grammar does not accept the given beginning of the answer")
        return grammar

    def set_cache(self, key: tuple[str, str], value: Any) -> None:
        kind, text = key
        if kind == "structural_tag" and without_prefix(text)[1]:
            return
        self._set_cache(key, value)
