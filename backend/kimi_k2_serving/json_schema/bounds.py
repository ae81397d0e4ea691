"""How far a constrained answer may grow where its schema sets no end.

A trained model ends by itself; random weights do not, so the demo presets bound everything that repeats or nests.
What a schema demands (minLength, minItems, required properties) wins over a bound.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """None is without bound.

    max_string: characters of a string; max_items: items of an array; max_properties: undeclared properties of an
    object; max_depth: levels that a recursive schema or a free value may nest; max_calls: calls of one section, None
    is the limit `tool_calls_per_answer`; indent: white space after a line break in JSON, None is no line break;
    sort_keys: the prompt shows tools with sorted keys, so properties come in that order.
    """

    max_string: int | None = None
    max_items: int | None = None
    max_properties: int | None = None
    max_depth: int | None = None
    max_calls: int | None = None
    indent: int | None = 32
    sort_keys: bool = False

    @classmethod
    def production(cls) -> Bounds:
        """For a trained model: only what could never be meant is bounded."""
        return cls()

    @classmethod
    def demo(cls) -> Bounds:
        """For small or random models: every answer ends within a few hundred tokens per call."""
        return cls(max_string=16, max_items=3, max_properties=2, max_depth=3, max_calls=3, indent=None)
