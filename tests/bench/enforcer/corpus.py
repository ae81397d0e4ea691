"""Every schema of the corpus as a tool, asked of a real server in every form, every answer judged by jsonschema.

    scripts/bench enforcer corpus [--preset demo-random] [--forms TEXT ...] [--schemas N] [--concurrency 16]

Prints one row for each form: requests, calls, what was wrong, what ran out of tokens, tokens and seconds. Ends with
status 1 if anything was wrong. `--forms` takes the forms whose name contains one of the texts.
"""

from __future__ import annotations

import argparse
import time

from kimi_k2_serving.core.tokens import Vocabulary
from tests.bench.enforcer.serving import SECTION, serving
from tests.support.calls import FORMS, Form, Outcome, ask_all
from tests.support.schemas import corpus, sample


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="demo-random")
    parser.add_argument("--forms", nargs="+", metavar="TEXT", default=[""], help="default: all")
    parser.add_argument("--schemas", type=int, metavar="N", help="an even sample of the corpus (default: all of it)")
    parser.add_argument("--concurrency", type=int, default=16)


def run(args: argparse.Namespace) -> int:
    schemas = sample(args.schemas) if args.schemas else corpus()
    forms = tuple(form for form in FORMS if any(text in form.name for text in args.forms))
    print(f"{len(schemas)} schemas, preset {args.preset}, {args.concurrency} at once")
    failed = False
    print(f"{'form':34} {'answers':>8} {'calls':>7} {'wrong':>6} {'cut off':>8} {'no call':>8} {'tokens':>8} {'s':>6}")
    with serving(args.preset) as (server, checkpoint):
        marker = Vocabulary.load(checkpoint).control(SECTION)
        for form in forms:
            begin = time.monotonic()
            outcomes = ask_all(server, schemas, (form,), marker=marker, concurrency=args.concurrency)
            print(row(form, outcomes, time.monotonic() - begin), flush=True)
            for each in outcomes:
                if each.wrong or each.finish == "length":
                    print(f"    {each.schema}: {each.finish}, {len(each.calls)} calls, {each.tokens} tokens")
                    print("".join(f"        {line[:400]}\n" for line in each.wrong), end="")
            failed = failed or any(each.wrong for each in outcomes)
    return int(failed)


def row(form: Form, outcomes: list[Outcome], seconds: float) -> str:
    calls = sum(len(each.calls) for each in outcomes)
    wrong = sum(bool(each.wrong) for each in outcomes)
    cut = sum(each.finish == "length" for each in outcomes)
    free = sum(each.finish == "stop" and not each.wrong for each in outcomes)
    tokens = sum(each.tokens for each in outcomes)
    return f"{form.name:34} {len(outcomes):8} {calls:7} {wrong:6} {cut:8} {free:8} {tokens:8} {seconds:6.0f}"
