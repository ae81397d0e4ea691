"""The answer parser: is it linear, how fast is it, and how does SGLang's own K2 detector compare.

`scripts/bench parser [--checkpoint DIR] [--reference]` prints one JSON object. Times are CPU seconds of this
process, the best of three; every delta is fed by itself. Arguments are one JSON object that writes a file of code, in
deltas of four bytes: both parsers get the same deltas, ours as ids of a vocabulary of just these pieces. With a
checkpoint the rates count tokens of its vocabulary. The reference is given up past a size that took over the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from kimi_k2_serving.core.call_machine import Marker
from kimi_k2_serving.core.events import FinishReason
from kimi_k2_serving.core.marker_text import MarkerTextParser
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.tool_calls import TokenTable, ToolCallParser

SIZES = [10 * 1024 * 2**doubling for doubling in range(8)]  # 10 KiB to 1.25 MiB
GOALS = {"doubling_ratio": 2.2, "one_megabyte_s": 2.0, "tokens_per_s": 300_000}
NAME = "functions.write:0"
HEADER = f"<|tool_calls_section_begin|><|tool_call_begin|>{NAME}<|tool_call_argument_begin|>"
WORDS = ["def", "return", "self", "value", "for", "in", "if", "not", "None", "+=", "[0]", "(x):", "#", "\n", ""]


class PieceVocabulary:
    """Every distinct piece is a token; the markers follow."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._tokens = [piece.encode() for piece in dict.fromkeys(pieces)]
        self._ids = {token: place for place, token in enumerate(self._tokens)}
        self._controls = {marker.value: len(self._tokens) + place for place, marker in enumerate(Marker)}

    def control(self, name: str) -> int:
        return self._controls[name]

    def token_bytes(self, token: int) -> bytes:
        return self._tokens[token]

    def encode(self, pieces: Iterable[str]) -> list[int]:
        return [self._ids[piece.encode()] for piece in pieces]


def code(size: int) -> str:
    """About `size` characters that read like code, with quotes and line ends to escape."""
    random = Random(size)
    words: list[str] = []
    length = 0
    while length < size:
        word = random.choice(WORDS) if random.random() < 0.9 else f'"s{random.randrange(1000)}\\n"'
        words.append(word)
        length += len(word) + 1
    return " ".join(words)[:size]


def write_call(size: int) -> str:
    """The arguments of a call that writes a file of that size."""
    return json.dumps({"path": "src/module.py", "content": code(size), "lines": [1, 2.5, None], "ok": True})


def in_fours(text: str) -> list[str]:
    return [text[start : start + 4] for start in range(0, len(text), 4)]


def best(work: Callable[[], None], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def arguments_seconds(size: int) -> float:
    pieces = in_fours(write_call(size))
    vocabulary = PieceVocabulary([*pieces, NAME])
    ids = vocabulary.encode(pieces)

    def work() -> None:
        parser = in_arguments(vocabulary, vocabulary.encode([NAME]))
        for token in ids:
            parser.feed([token])
        assert parser.finish(FinishReason.STOP)

    return best(work)


def in_arguments(vocabulary: TokenTable, header: list[int]) -> ToolCallParser:
    parser = ToolCallParser(vocabulary, tools=["write"])
    begin = [vocabulary.control(marker.value) for marker in (Marker.SECTION_BEGIN, Marker.CALL_BEGIN)]
    parser.feed([*begin, *header, vocabulary.control(Marker.ARGUMENT_BEGIN.value)])
    return parser


def replay_seconds(size: int) -> float:
    pieces = in_fours(write_call(size))

    def work() -> None:
        parser = MarkerTextParser(tools=["write"])
        parser.feed(HEADER)
        for piece in pieces:
            parser.feed(piece)

    return best(work)


def reference_seconds(limit: float) -> dict[int, float]:
    """SGLang's detector on the same deltas; sizes after the first that took longer than `limit` are left out."""
    from sglang.srt.entrypoints.openai.protocol import Function, Tool
    from sglang.srt.function_call.kimik2_detector import KimiK2Detector

    tools = [Tool(type="function", function=Function(name="write", parameters={"type": "object"}))]
    seconds: dict[int, float] = {}
    for size in SIZES:
        pieces = in_fours(write_call(size))

        def work(pieces: list[str] = pieces) -> None:
            detector = KimiK2Detector()
            detector.parse_streaming_increment(HEADER, tools)
            for piece in pieces:
                detector.parse_streaming_increment(piece, tools)

        seconds[size] = best(work, repeats=1)
        if seconds[size] > limit:
            break
    return seconds


def rates(checkpoint: Path | None) -> dict[str, float]:
    """Tokens a second, one at a time, on one core."""
    rows = [[n, n / 7, {"ok": n % 2 == 0, "x": None}] for n in range(8_000)]
    content, call = code(400_000), write_call(400_000)
    vocabulary = Vocabulary.load(checkpoint) if checkpoint else None
    return {
        "content": rate(content, vocabulary),
        "content_with_stops": rate(content, vocabulary, stops=("</answer>", "\nUser:")),
        "arguments": rate(call, vocabulary, in_call=True),
        "dense_arguments": rate(json.dumps({"rows": rows}), vocabulary, in_call=True),
    }


def rate(text: str, vocabulary: Vocabulary | None, *, in_call: bool = False, stops: tuple[str, ...] = ()) -> float:
    """Tokens of `vocabulary`, or of four bytes, a second."""
    table: TokenTable
    if vocabulary is None:
        table = own = PieceVocabulary([*in_fours(text), NAME])
        ids, name = own.encode(in_fours(text)), own.encode([NAME])
    else:
        table, ids, name = vocabulary, vocabulary.encode(text), vocabulary.encode(NAME)

    def work() -> None:
        parser = in_arguments(table, name) if in_call else ToolCallParser(table, tools=["write"], stops=stops)
        for token in ids:
            parser.feed([token])

    return round(len(ids) / best(work))


def doublings(seconds: dict[int, float]) -> dict[str, float]:
    return {f"{size}": round(seconds[size] / seconds[size // 2], 2) for size in seconds if size // 2 in seconds}


def main() -> int:
    arguments = argparse.ArgumentParser(prog="scripts/bench parser", description=__doc__.splitlines()[0])
    arguments.add_argument("--checkpoint", type=Path, help="count tokens of this vocabulary instead of four bytes")
    arguments.add_argument("--reference", action="store_true", help="also run SGLang's detector (needs sglang)")
    arguments.add_argument("--limit", type=float, default=20, help="give up the reference past this many seconds")
    args = arguments.parse_args()
    ours = {size: arguments_seconds(size) for size in SIZES}
    replays = {size: replay_seconds(size) for size in SIZES}
    theirs = reference_seconds(args.limit) if args.reference else {}
    megabyte = ours[SIZES[-1]] * 2**20 / SIZES[-1]
    result = {
        "goals": GOALS,
        "tokens_per_s": rates(args.checkpoint),
        "one_megabyte_s": round(megabyte, 3),
        "doubling_ratio": max(doublings(ours).values()),
        "arguments_s": {size: round(seconds, 4) for size, seconds in ours.items()},
        "doublings": doublings(ours),
        "replay_s": {size: round(seconds, 4) for size, seconds in replays.items()},
        "reference_s": {size: round(seconds, 4) for size, seconds in theirs.items()},
        "reference_doublings": doublings(theirs),
        "times_faster": {size: round(theirs[size] / ours[size], 1) for size in theirs},
    }
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
