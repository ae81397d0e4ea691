"""`python -m kimi_k2_serving.demo.evaluation URL`: the scores of a model behind an OpenAI-compatible URL.

Exit codes: 0 measured, 1 no request was answered, 2 the arguments were wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from kimi_k2_serving.demo.evaluation.asking import ChatEndpoint, evaluate
from kimi_k2_serving.demo.evaluation.cases import held_out, in_other_words
from kimi_k2_serving.demo.evaluation.scoring import Outcome, is_right, summary, table


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    endpoint = ChatEndpoint(args.url, args.model, args.key, stream=args.stream, enforced=not args.unenforced)
    cases = in_other_words() if args.words else held_out(args.cases, args.seed)
    outcomes = evaluate(endpoint, cases, concurrency=args.concurrency, progress=_progress(len(cases)))
    print(file=sys.stderr)
    result = summary(outcomes)
    for each in [each for each in outcomes if not is_right(each)][: args.show]:
        print(_shown(each), file=sys.stderr)
    print(json.dumps(result.as_json(), indent=2) if args.json else table(result))
    return int(result.failed == result.cases)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kimi_k2_serving.demo.evaluation",
        description="Measure when a model calls tools, with which arguments, and what it reads from their results.",
        epilog="example: python -m kimi_k2_serving.demo.evaluation http://127.0.0.1:9000/v1 --stream",
    )
    parser.add_argument("url", metavar="URL", help="up to /v1")
    parser.add_argument("--model", default="kimi_k2", help="(%(default)s)")
    parser.add_argument("--key", default="", help="the API key, if the server wants one")
    parser.add_argument("--cases", type=int, default=400, metavar="N", help="held-out conversations (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the held-out conversations (%(default)s)")
    parser.add_argument("--words", action="store_true", help="the hand-written requests instead")
    parser.add_argument("--stream", action="store_true", help="ask for streamed answers")
    parser.add_argument("--unenforced", action="store_true", help="send strict: false with every tool")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests at a time (%(default)s)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print this many wrong answers")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _progress(total: int) -> Callable[[int], None]:
    return lambda done: print(f"\r{done} of {total}", end="", file=sys.stderr, flush=True)


def _shown(outcome: Outcome) -> str:
    case, answer = outcome.case, outcome.answer
    calls = [(call.name, call.arguments) for call in answer.calls]
    return "\n".join(
        (
            f"--- {case.kind}: {case.request['messages'][-1]['content']!r}",
            f"    expected {list(case.calls) or case.text or list(case.values)}",
            f"    got      {outcome.problem or calls or answer.content!r} ({answer.finish_reason})",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
