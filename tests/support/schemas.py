"""The corpus of schemas, and a judge of values that shares no code with the grammar: jsonschema as it is published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import regex
from jsonschema.exceptions import ValidationError

_extend: Any = jsonschema.validators.extend
CORPUS = Path(__file__).parents[1] / "grammar" / "corpus"


def corpus() -> dict[str, Any]:
    """Every schema of the corpus by `feature: name`."""
    found: dict[str, Any] = {}
    for path in sorted(CORPUS.glob("*.json")):
        for name, schema in json.loads(path.read_text()).items():
            found[f"{path.stem}: {name}"] = schema
    return found


def sample(count: int) -> dict[str, Any]:
    """About `count` schemas of the corpus, the same ones every time, spread evenly over it."""
    schemas = list(corpus().items())
    return dict(schemas[2 :: max(1, len(schemas) // count)])


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    """jsonschema's own rule; an expression that Python's `re` cannot read goes to the regex package."""
    if not isinstance(value, str):
        return
    try:
        found = re.search(pattern, value)
    except re.error:
        found = regex.search(pattern, value)
    if not found:
        yield ValidationError("does not match the pattern")


def problems(schema: Any, value: Any) -> list[str]:
    """What jsonschema says of a value, formats included, read in the draft that the schema's keywords belong to."""
    text = json.dumps(schema)
    draft: Any = jsonschema.Draft202012Validator
    if '"exclusiveMinimum": true' in text:
        draft = jsonschema.Draft4Validator
    elif '"additionalItems"' in text or '"dependencies"' in text:
        draft = jsonschema.Draft7Validator
    judge = _extend(draft, {"pattern": _pattern})
    return [error.message for error in judge(schema, format_checker=draft.FORMAT_CHECKER).iter_errors(value)]
