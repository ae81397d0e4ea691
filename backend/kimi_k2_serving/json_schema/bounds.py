"""How long a constrained answer may become where its schema sets no maximum.

A trained model ends its answer by itself. Random weights do not, so the demo presets bound everything that repeats or
nests. A minimum in the schema (minLength, minItems, required properties) wins over a bound.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """None means no bound, if nothing else is said.

    max_string: characters of a string; max_items: items of an array; max_properties: undeclared properties of an
    object; max_depth: levels that a recursive schema or a free value may nest; max_calls: calls of one section, None
    means the limit `tool_calls_per_answer`; indent: blanks and tabs after a line break in JSON, None means no line
    breaks; sort_keys: the prompt shows tools with sorted keys, so properties come in that order.
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
        """For a trained model: only indentation and the number of calls are bounded."""
        return cls()

    @classmethod
    def demo(cls) -> Bounds:
        """For small or random models: every answer ends within a few hundred tokens per call."""
        return cls(max_string=16, max_items=3, max_properties=2, max_depth=3, max_calls=3, indent=None)
