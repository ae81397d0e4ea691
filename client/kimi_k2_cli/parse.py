"""`kimi-k2 parse`: reads an answer from standard input and writes the OpenAI deltas that clients would get to standard
output.

The input is one JSON object: `output_ids`, or the `text` of an answer recorded without ids; `tools` (OpenAI's, or
names); `chunk`, the number of ids or characters per step, 0 for all at once; and optional `first_index`, `stop`,
`parallel_tool_calls` and `finish_reason` (stop or length: why the engine ended). Each line of output is a delta; the
last one is the whole `message` with its `finish_reason`. Rejected and incomplete calls are named on standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kimi_k2_cli.checkpoint import add_option, load_vocabulary
from kimi_k2_cli.given_file import read_stdin
from kimi_k2_serving.core import strict_json
from kimi_k2_serving.core.chat_tools import read_tools
from kimi_k2_serving.core.deltas import Answer, collect_answer, delta, message
from kimi_k2_serving.core.errors import InvalidType, InvalidValue, UnknownField
from kimi_k2_serving.core.events import Event, FinishReason
from kimi_k2_serving.core.limits import STOP_BYTES, STOP_STRINGS
from kimi_k2_serving.core.marker_text import MarkerTextParser
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.tool_calls import ToolCallParser
from kimi_k2_serving.core.typed_json import Object, as_flag, as_list, as_object, as_string, one_of

_KEYS = ("output_ids", "text", "tools", "chunk", "first_index", "stop", "parallel_tool_calls", "finish_reason")


@dataclass(frozen=True, slots=True)
class _Options:
    """The options of both parsers."""

    tools: tuple[str, ...]
    first_index: int
    parallel: bool
    stops: tuple[str, ...]


def configure(parser: argparse.ArgumentParser) -> None:
    add_option(parser)
    parser.epilog = """example: echo '{"text": "Hi", "tools": ["get_weather"], "chunk": 1}' | kimi-k2 parse"""


def run(args: argparse.Namespace) -> int:
    request = as_object(strict_json.loads(read_stdin(), field="stdin"), "stdin")
    for key in request:
        if key not in _KEYS:
            # A message never repeats the client's text, so it lists the known keys instead.
            raise UnknownField(f"has an unknown key; known are {', '.join(_KEYS)}", field="stdin")
    if ("output_ids" in request) == ("text" in request):
        raise InvalidValue("send output_ids or text, exactly one of them", field="stdin")
    options = _Options(
        tools=_tools(request.get("tools")),
        first_index=_count(request.get("first_index", 0), "first_index"),
        parallel=as_flag(request.get("parallel_tool_calls"), "parallel_tool_calls", default=True),
        stops=_stops(request.get("stop")),
    )
    chunk = _count(request.get("chunk", 0), "chunk")
    reason = FinishReason(one_of(request.get("finish_reason", "stop"), ("stop", "length"), "finish_reason"))
    if "text" in request:
        events = _replayed(as_string(request["text"], "text"), chunk, options, reason)
    else:
        events = _parsed(args, _ids(request), chunk, options, reason)
    _write(events)
    return 0


def _parsed(
    args: argparse.Namespace, ids: list[int], chunk: int, options: _Options, reason: FinishReason
) -> Iterator[Event]:
    parser = ToolCallParser(
        load_vocabulary(args),
        tools=options.tools,
        first_index=options.first_index,
        parallel=options.parallel,
        stops=options.stops,
    )
    for start in _starts(ids, chunk):
        yield from parser.feed(ids[start : start + chunk] if chunk else ids)
    yield from parser.finish(reason)


def _replayed(text: str, chunk: int, options: _Options, reason: FinishReason) -> Iterator[Event]:
    parser = MarkerTextParser(
        tools=options.tools, first_index=options.first_index, parallel=options.parallel, stops=options.stops
    )
    for start in _starts(text, chunk):
        yield from parser.feed(text[start : start + chunk] if chunk else text)
    yield from parser.finish(reason)


def _starts(answer: Sequence[object], chunk: int) -> range:
    return range(0, len(answer), chunk or max(1, len(answer)))


def _write(events: Iterator[Event]) -> None:
    seen: list[Event] = []
    for event in events:
        seen.append(event)
        shown = delta(event)
        if shown is not None:
            _line(shown)
    answer = collect_answer(seen)
    _line({"message": message(answer), "finish_reason": answer.finish_reason.value})
    _report(answer)


def _line(value: Object) -> None:
    sys.stdout.buffer.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def _report(answer: Answer) -> None:
    for reason in answer.rejected:
        print(f"kimi-k2 parse: rejected call: {reason.value}", file=sys.stderr)
    for call in answer.tool_calls:
        if not call.complete:
            print(f"kimi-k2 parse: incomplete call: {call.id}", file=sys.stderr)


def _ids(request: Object) -> list[int]:
    return [_count(token, f"output_ids[{i}]") for i, token in enumerate(as_list(request["output_ids"], "output_ids"))]


def _count(value: Json, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidType("must be an integer", field=path)
    if value < 0:
        raise InvalidValue("must not be negative", field=path)
    return value


def _tools(value: Json) -> tuple[str, ...]:
    if isinstance(value, list):
        names = tuple(item for item in value if isinstance(item, str))
        if len(names) == len(value):
            return names
    return tuple(tool.name for tool in read_tools(value))


def _stops(value: Json) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else as_list(value, "stop")
    STOP_STRINGS.check(len(items), field="stop")
    stops = tuple(as_string(item, f"stop[{i}]") for i, item in enumerate(items))
    for i, stop in enumerate(stops):
        STOP_BYTES.check(len(stop.encode()), field=f"stop[{i}]")
    return stops
