"""The hostile answers of tests/core/hostile_cases.json, and the tables of docs/kimi_k2_format.md that show them.

`python -m tests.support.hostile CHECKPOINT` writes the ids into the cases and the tables into the document, after a
change of a case; what a case expects is written by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.call_machine import Marker
from kimi_k2_serving.core.events import (
    ArgumentsDelta,
    CallRejected,
    Event,
    Finish,
    FinishReason,
    Rejection,
    TextDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kimi_k2_serving.core.marker_text import MarkerTextParser
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import TokenTable, ToolCallParser
from tests.support.answers import VOCABULARY, Part

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests" / "core" / "hostile_cases.json"
DOCUMENT = ROOT / "docs" / "kimi_k2_format.md"
MARKERS = {marker.name.lower(): marker for marker in Marker}


@dataclass(frozen=True, slots=True)
class Case:
    """`input` items: text, one byte as an integer, or a control token as a list of its short or whole name."""

    name: str
    rules: tuple[str, ...]
    tools: tuple[str, ...]
    reason: FinishReason
    options: dict[str, Any]
    input: tuple[Any, ...]
    ids: tuple[int, ...]
    events: list[Event]

    def ids_of_bytes(self) -> list[int]:
        """The input in the byte vocabulary."""
        return VOCABULARY.ids(*(self._part(item) for item in self.input))

    def ids_in(self, vocabulary: Vocabulary) -> list[int]:
        """The input in a real vocabulary, text encoded as such."""
        ids: list[int] = []
        for item in self.input:
            if isinstance(item, str):
                ids += vocabulary.encode(item)
            elif isinstance(item, int):
                ids.append(next(i for i in range(vocabulary.size) if vocabulary.token_bytes(i) == bytes([item])))
            else:
                ids.append(vocabulary.control(control_name(item[0])))
        return ids

    def parser(self, vocabulary: TokenTable) -> ToolCallParser:
        return ToolCallParser(vocabulary, tools=self.tools, **self.options)

    def text_parser(self) -> MarkerTextParser:
        return MarkerTextParser(tools=self.tools, **self.options)

    def _part(self, item: Any) -> Part:
        if not isinstance(item, list):
            return item  # type: ignore[no-any-return]
        name = control_name(item[0])
        marker = next((marker for marker in Marker if marker.value == name), None)
        # Control tokens that are no markers are alike, so one stands for those the byte vocabulary lacks.
        return marker or VOCABULARY.controls.get(name, VOCABULARY.controls["[BOS]"])


def control_name(name: str) -> str:
    return MARKERS[name].value if name in MARKERS else name


def load(kind: str) -> list[Case]:
    """Cases of a kind: `answers` are ids, `replays` are text (one item of input, no ids)."""
    return [_case(record) for record in json.loads(CASES.read_text())[kind]]


def _case(record: dict[str, Any]) -> Case:
    return Case(
        name=record["name"],
        rules=tuple(record["rules"]),
        tools=tuple(record["tools"]),
        reason=FinishReason(record.get("reason", "stop")),
        options={key: record[key] for key in ("first_index", "parallel", "stops") if key in record},
        input=tuple(record.get("input", [record.get("text")])),
        ids=tuple(record.get("ids", ())),
        events=[_event(*fields) for fields in record["events"]],
    )


def _event(kind: str, *fields: Any) -> Event:
    match kind:
        case "text":
            return TextDelta(*fields)
        case "start":
            return ToolCallStart(*fields)
        case "arguments":
            return ArgumentsDelta(*fields)
        case "end":
            return ToolCallEnd(*fields)
        case "rejected":
            return CallRejected(Rejection(*fields))
        case "finish":
            return Finish(FinishReason(fields[0]), *fields[1:])
    raise AssertionError(kind)


def table(kind: str) -> str:
    """The Markdown table of a kind, as it has to stand in the document."""
    columns = ["case", "rules", "tools and options", "input", *(["ids"] if kind == "answers" else []), "events"]
    lines = [_line(columns), _line(["---"] * len(columns))]
    for case in load(kind):
        ids = [_code(" ".join(map(str, case.ids)))] if kind == "answers" else []
        lines.append(
            _line(
                [
                    case.name,
                    " ".join(case.rules),
                    _settings(case),
                    " ".join(_shown(item) for item in case.input),
                    *ids,
                    " ".join(_shown_event(event) for event in case.events),
                ]
            )
        )
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _settings(case: Case) -> str:
    options = [f"{key} {_code(json.dumps(value, ensure_ascii=False))}" for key, value in case.options.items()]
    if case.reason is not FinishReason.STOP:
        options.append(f"ends by {case.reason.value}")
    return "; ".join([", ".join(map(_code, case.tools)) or "none", *options])


def _code(text: str) -> str:
    """Text as code inside a table cell; two backquotes where it holds one."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}".replace("|", "\\|") if text else ""


def _shown(item: Any) -> str:
    if isinstance(item, list):
        return f"⟨{item[0]}⟩".replace("|", "\\|")
    return f"byte {item:02x}" if isinstance(item, int) else _code(repr(item))


def _shown_event(event: Event) -> str:
    match event:
        case TextDelta(text):
            return f"text {_code(repr(text))}"
        case ToolCallStart(_, id_, _):
            return f"start {_code(id_)}"
        case ArgumentsDelta(_, fragment):
            return f"arguments {_code(repr(fragment))}"
        case ToolCallEnd(_, complete):
            return "end" if complete else "end, incomplete"
        case CallRejected(reason):
            return f"rejected: {reason.value}"
        case Finish(reason, stop):
            return f"**{reason.value}**" + (f" {_code(repr(stop))}" if stop else "")


def document(text: str) -> str:
    """The document's text with its two tables as they have to be."""
    for kind in ("answers", "replays"):
        before, begin, rest = text.partition(f"<!-- {kind} -->\n")
        _, end, after = rest.partition(f"\n<!-- end of {kind} -->")
        text = f"{before}{begin}{table(kind)}{end}{after}"
    return text


def main(checkpoint: str) -> None:
    vocabulary = Vocabulary.load(Path(checkpoint))
    records = json.loads(CASES.read_text())
    for record, case in zip(records["answers"], load("answers"), strict=True):
        record["ids"] = case.ids_in(vocabulary)
    kinds = [
        f'"{kind}": [\n' + ",\n".join(json.dumps(record, ensure_ascii=False) for record in records[kind]) + "\n]"
        for kind in ("answers", "replays")
    ]
    CASES.write_text("{" + ",\n".join(kinds) + "}\n")
    DOCUMENT.write_text(document(DOCUMENT.read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
