"""Checks a finished answer for what its grammar did not enforce, and reports it. The answer itself is never changed.

If nothing was relaxed, nothing is inspected or reported. Arguments that the length limit cut off, and content that it
or a stop string cut off, are not inspected: finish_reason says so. A report holds no text of the model, except names of
properties. A document that is large, alone or together with its schema, is checked by a worker within CHECK_SECONDS; if
that is not enough, its problem is `not checked`. Imports jsonschema only when it is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kimi_k2_serving.core.errors import Internal, Overloaded, ServingError
from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    Event,
    Finish,
    FinishReason,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.messages import Conversation, FormatKind, Json, ResponseFormat, Tool
from kimi_k2_serving.enforcer.worker_client import Line, Worker
from kimi_k2_serving.grammar import job

if TYPE_CHECKING:
    from kimi_k2_serving.grammar.constraint import Constraint

CHECK_SECONDS = 1.0
# A document of up to SMALL characters, and up to SMALL_PRODUCT times those of its schema, is checked in this process.
# The work grows with both, for uniqueItems with the square of the first: milliseconds, at worst a tenth of a second.
SMALL = 1 << 11
SMALL_PRODUCT = 1 << 21
NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Relaxed:
    """`places` as in `Constraint.relaxed`; the relaxed schemas alone, of `tools` by name and of the response format.
    `prefix`: the beginning of the content, which the request has given.
    """

    places: tuple[str, ...]
    tools: Mapping[str, Json] = field(default_factory=dict)
    answer: Json = None
    prefix: str = ""

    @classmethod
    def of(cls, constraint: Constraint, conversation: Conversation) -> Relaxed | None:
        """None if nothing was relaxed."""
        if not constraint.relaxed:
            return None
        tools: dict[str, Json] = {}
        for number, tool in enumerate(conversation.tools):
            places = [place for place in constraint.relaxed if _inside(place, job.path(number))]
            if places and not any(place.endswith(f": {job.UNREADABLE}") for place in places):
                tools[tool.name] = _plain(tool.parameters)
        in_format = any(_inside(place, job.FORMAT) for place in constraint.relaxed)
        answer = _plain(conversation.response_format.schema) if in_format else None
        return cls(constraint.relaxed, tools, answer, conversation.prefix)

    def encode(self) -> Json:
        return {
            "places": list(self.places),
            "tools": dict(self.tools),
            "answer": self.answer,
            "prefix": self.prefix,
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Relaxed:
        return cls(tuple(data["places"]), data["tools"], data["answer"], data["prefix"])


@dataclass(frozen=True, slots=True)
class Report:
    """`calls` and `contents` count what was inspected; `invalid` has the problems of a call, each `path: keyword`, by
    the call's index in the answer.
    """

    relaxed: tuple[str, ...]
    calls: int = 0
    contents: int = 0
    invalid: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    invalid_content: tuple[str, ...] = ()

    def document(self) -> dict[str, Json]:
        """The report as clients get it; keys without any problem are absent."""
        document: dict[str, Json] = {"relaxed": list(self.relaxed)}
        if self.invalid:
            document["invalid"] = [
                {"index": index, "problems": list(problems)} for index, problems in self.invalid.items()
            ]
        if self.invalid_content:
            document["invalid_content"] = list(self.invalid_content)
        return document


class Inspector:
    """Collects one answer's events; call `report` after the last one."""

    def __init__(self, relaxed: Relaxed) -> None:
        self._relaxed = relaxed
        self._schema: Json = None
        self._pieces: list[str] = []
        self._content: list[str] = []
        self._documents: list[tuple[int, str, Json]] = []
        self._whole = False

    def feed(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case TextDelta(text) if self._relaxed.answer is not None:
                    self._content.append(text)
                case ToolCallStart(_, _, name):
                    self._schema = self._relaxed.tools.get(name)
                    self._pieces = []
                case ArgumentsDelta(_, fragment) if self._schema is not None:
                    self._pieces.append(fragment)
                case ToolCallEnd(index, complete) if complete and self._schema is not None:
                    self._documents.append((index, "".join(self._pieces), self._schema))
                case Finish(reason, stop):
                    self._whole = reason is FinishReason.STOP and stop is None

    @property
    def large(self) -> bool:
        """Whether `report` needs the worker."""
        documents = [(arguments, schema) for _, arguments, schema in self._documents]
        if self._whole and self._relaxed.answer is not None:
            documents.append((self._relaxed.prefix + "".join(self._content), self._relaxed.answer))
        return not all(_is_small(text, schema) for text, schema in documents)

    def report(
        self, worker: Worker, *, clock: Callable[[], float] = time.monotonic, since: float | None = None
    ) -> Report:
        """May wait for the worker: CHECK_SECONDS for all documents together, counted from `since` or from now."""
        deadline = (clock() if since is None else since) + CHECK_SECONDS
        invalid = {}
        for index, arguments, schema in self._documents:
            if found := validate_document(worker, arguments, schema, content=False, seconds=deadline - clock()):
                invalid[index] = found
        inspected = self._whole and self._relaxed.answer is not None
        problems: tuple[str, ...] = ()
        if inspected:
            text = self._relaxed.prefix + "".join(self._content)
            problems = validate_document(worker, text, self._relaxed.answer, content=True, seconds=deadline - clock())
        return Report(self._relaxed.places, len(self._documents), int(inspected), invalid, problems)


def validate_document(worker: Worker, text: str, schema: Json, *, content: bool, seconds: float) -> tuple[str, ...]:
    """The problems of one document, checked in this process if it is small, else by the worker within `seconds`."""
    if _is_small(text, schema):
        return tuple(problems(text, schema, content))
    lines: list[Line] = []
    # A budget of 0 would disable the timers that end the worker's child.
    if seconds > 0:
        # msgspec holds the GIL for 1 ms per megabyte.
        rest = msgspec.json.encode([text, schema, content])
        with suppress(Internal, Overloaded):
            lines = worker.ask({"kind": "validate", "budget": seconds}, rest, seconds=seconds, patience=seconds)
    found = lines[-1][1].get("problems") if lines else None
    return tuple(found) if found is not None else (f"{_name(content)}: {NOT_CHECKED}",)


def problems(text: str, schema: Json, content: bool) -> list[str]:
    from kimi_k2_serving.json_schema.validate import validate, validate_answer

    assert isinstance(schema, dict | bool)
    try:
        if content:
            return validate_answer(text, ResponseFormat(FormatKind.JSON_SCHEMA, schema))
        return validate(text, Tool("", {}, schema))
    except (ServingError, RecursionError):
        return [f"{_name(content)}: {NOT_CHECKED}"]


def _is_small(text: str, schema: Json) -> bool:
    return len(text) <= SMALL and len(text) * len(msgspec.json.encode(schema)) <= SMALL_PRODUCT


def _name(content: bool) -> str:
    return "answer" if content else "arguments"


def _inside(place: str, path: str) -> bool:
    """Whether `place` lies in the schema at `path`."""
    return place.startswith(path) and place[len(path) : len(path) + 1] in (".", "[", ":", "")


def _plain(schema: Mapping[str, Json] | bool | None) -> Json:
    return dict(schema) if isinstance(schema, Mapping) else schema
