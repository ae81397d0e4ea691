"""`scripts/fuzz engine`: hypothesis over every input of the engine model, on a real Triton and a real SGLang.

A batch is a list of requests, sent at once over gRPC, so that what they ask for meets in the scheduler's batches. Every
request has to end by itself within `END_SECONDS`, with one final response or one error; an error has a code that is not
`internal` and names a field where the request is at fault; the engine dies of none. The batches follow from the seed.
Needs nothing but a checkout: it starts its own server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import numpy as np
import tritonclient.grpc.aio as triton
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from kimi_k2_serving.core import limits
from kimi_k2_serving.core.sampling import ALIASES, FIELDS, GRAMMARS, Field, Kind
from kimi_k2_serving.triton.signatures import ENGINE_INPUTS, TensorSpec
from tests.server.running import Server, running
from tests.support import tally

MODEL = "kimi_k2_engine"
VOCABULARY = 4352
BATCH = 32
END_SECONDS = 120.0
NUMPY = {"INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32, "BOOL": np.bool_, "STRING": np.object_}
# Where nobody is at fault but the moment: such an error names no field.
NO_FIELD = {"deadline_exceeded", "overloaded", "cancelled"}
# Either has the engine died, or this package has failed.
FORBIDDEN = {"internal", "engine_lost", "engine_unavailable", "request_quarantined", "shutting_down"}

Request = dict[str, Any]


def ids() -> st.SearchStrategy[int]:
    edges = st.sampled_from([-1, 0, VOCABULARY - 1, VOCABULARY, VOCABULARY + 2, 2**31 - 1, -(2**31)])
    return st.one_of(st.integers(0, VOCABULARY - 1), st.integers(0, VOCABULARY - 1), edges)


def numbers(field: Field) -> st.SearchStrategy[Any]:
    low, high = max(field.minimum, -(2.0**31)), min(field.maximum, 2.0**63)
    # What 32 bits hold as nothing, as a subnormal or as next to nothing.
    small = [1e-9, 1e-30, 1e-38, 1e-40, 5e-324]
    edges = st.sampled_from([low, high, low - 1, high + 1, 0, -1, 1e300, *small])
    if field.kind is Kind.INTEGER:
        return st.one_of(st.integers(int(low), min(int(high), 64)), edges.map(int))
    return st.one_of(st.floats(low, high), edges)


GRAMMAR_TEXTS = st.sampled_from(
    [
        *(
            "",
            "(",
            "[a-z]{1,8}",
            "(a|b)*c",
            "a{1,1000}",
            "\0",
            "(?=a)",
            '{"type":"integer"}',
            '{"$ref":"#"}',
            "{}",
            "[]",
        ),
        *('root ::= "a" root | "b"', "root ::= root", "root ::= x", '{"enum":[1,2]}', '{"maxLength":2147483647}'),
        *('{"type":"structural_tag","format":{"type":"any_text"}}', '{"type":"structural_tag"}', "true", "{" * 70),
    ]
)


def parameter(name: str) -> st.SearchStrategy[Any]:
    field = FIELDS[ALIASES.get(name, name)]
    fitting: dict[Kind, st.SearchStrategy[Any]] = {
        Kind.INTEGER: numbers(field),
        Kind.NUMBER: numbers(field),
        Kind.BOOLEAN: st.booleans(),
        Kind.STRING: st.one_of(GRAMMAR_TEXTS, st.text(max_size=20)),
        Kind.STRINGS: st.lists(st.text(max_size=4), max_size=limits.STOP_STRINGS.value + 1),
        Kind.IDS: st.lists(ids(), max_size=6),
        Kind.BIAS: st.dictionaries(
            st.one_of(ids().map(str), st.sampled_from(["9" * 5000, "x", "007"])),
            st.floats(-101, 101),
            max_size=4,
        ),
    }
    # Now and then anything else: another kind's value, or none.
    other = st.one_of(st.none(), st.integers(), st.text(max_size=3), st.booleans(), st.just([]), st.just({}))
    return st.one_of(fitting[field.kind], fitting[field.kind], fitting[field.kind], other)


def sampling_parameters() -> st.SearchStrategy[str]:
    named = {name: parameter(name) for name in [*FIELDS, *ALIASES] if name not in GRAMMARS}
    few = st.lists(st.sampled_from(sorted(named)), max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: named[name] for name in names})
    )
    grammar = st.one_of(
        st.just({}),
        st.just({}),
        st.sampled_from(GRAMMARS).flatmap(lambda name: st.fixed_dictionaries({name: parameter(name)})),
    )
    both = st.tuples(few, grammar).map(lambda parts: {**parts[0], **parts[1]})
    return both.map(lambda given: json.dumps(given))


def tensor_values(tensor: TensorSpec) -> st.SearchStrategy[Any]:
    """Values of the tensor's own type: Triton refuses any other before the model sees them."""
    kind = tensor.data_type.removeprefix("TYPE_")
    name = ALIASES.get(tensor.name, tensor.name)
    if kind == "BOOL":
        one: st.SearchStrategy[Any] = st.booleans()
    elif kind == "FP32":
        one = st.one_of(st.floats(-3, 3, width=32), st.floats(width=32))
    elif kind == "STRING":
        one = st.text(max_size=8)
    elif tensor.name.endswith("ids"):
        one = ids()
    elif name in FIELDS:
        low = 0 if kind == "UINT64" else -(2**31)
        one = numbers(FIELDS[name]).map(lambda value: int(min(max(value, low), 2**64 - 1 if low == 0 else 2**31 - 1)))
    else:
        one = st.one_of(st.integers(-2, 200), st.sampled_from([-(2**31), 2**31 - 1]))
    return st.lists(one, min_size=1, max_size=1 if tensor.dims == (1,) else 6)


@st.composite
def requests(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Request:
    """Tensors by name. Lengths are short more often than not: each token costs."""
    prompt = draw(st.sampled_from(["input_ids"] * 8 + ["text_input"] * 4 + ["both", "none"]))
    given: Request = {}
    if prompt in ("input_ids", "both"):
        given["input_ids"] = draw(
            st.one_of(
                st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40),
                st.lists(ids(), min_size=1, max_size=8),
            )
        )
    if prompt in ("text_input", "both"):
        given["text_input"] = [draw(st.text(max_size=30))]
    others = [each for each in ENGINE_INPUTS if each.name not in ("input_ids", "text_input")]
    # One wrong value hides what the right ones beside it do: half of the requests have few.
    most = draw(st.sampled_from([1, 5]))
    for tensor in draw(st.lists(st.sampled_from(others), max_size=most, unique=True)):
        given[tensor.name] = draw(tensor_values(tensor))
    if draw(st.booleans()):
        given["sampling_parameters"] = [draw(sampling_parameters())]
    given.setdefault("max_tokens", [draw(st.integers(1, 8))])
    given.setdefault("timeout_ms", [draw(st.integers(5_000, 20_000))])
    return given


def inputs(given: Request) -> list[Any]:
    kinds = {tensor.name: tensor.data_type.removeprefix("TYPE_") for tensor in ENGINE_INPUTS}
    made = []
    for name, values in given.items():
        kind = kinds[name]
        data = [each.encode("utf-8", "replace") for each in values] if kind == "STRING" else values
        tensor = triton.InferInput(name, [len(values)], "BYTES" if kind == "STRING" else kind)
        tensor.set_data_from_numpy(np.array(data, dtype=NUMPY[kind]))
        made.append(tensor)
    return made


async def ending(client: Any, given: Request) -> str:
    """`code: field: message` of its error, or "" for an answer; raises what a broken promise raises."""

    async def one() -> Any:
        yield {"model_name": MODEL, "inputs": inputs(given), "enable_empty_final_response": True}

    try:
        async with asyncio.timeout(END_SECONDS):
            async for result, error in client.stream_infer(one()):
                if error is not None:
                    return str(error.message())
                if result.get_response().parameters["triton_final_response"].bool_param:
                    return ""
    except TimeoutError:
        return f"hang: not over after {END_SECONDS:g} s"
    except InferenceServerException as error:
        return str(error.message())
    return "hang: the stream ended without a final response"


def fault(said: str) -> str:
    """What is wrong with an ending, or nothing."""
    if not said:
        return ""
    code, _, rest = said.partition(": ")
    field = rest.partition(": ")[0]
    if code == "hang" or code in FORBIDDEN or not code.replace("_", "").isalpha():
        return said
    if code not in NO_FIELD and (not rest.partition(": ")[2] or " " in field):
        return f"names no field: {said}"
    return ""


class Campaign:
    """Batches sent to one server, and what became of their requests."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.endings: Counter[str] = Counter()
        self.began = time.monotonic()

    @property
    def sent(self) -> int:
        return sum(self.endings.values())

    def batch(self, given: list[Request]) -> None:
        said = asyncio.run(self._all(given))
        self.endings.update(each.partition(":")[0] or "answered" for each in said)
        broken = [f"{fault(each)}\n  {request}" for each, request in zip(said, given, strict=True) if fault(each)]
        if self._server.restarts() > 0:
            broken.append(f"the engine died of one of these:\n{given}")
        if broken:
            # Now: hypothesis runs the batch again before it raises, on an engine that may be another by then.
            print("\n".join(broken), file=sys.stderr, flush=True)
        assert not broken, f"{len(broken)} broken promises at request {self.sent}, printed above"

    async def _all(self, given: list[Request]) -> list[str]:
        async with triton.InferenceServerClient(f"127.0.0.1:{self._server.grpc}") as client:
            return list(await asyncio.gather(*(ending(client, each) for each in given)))


@contextmanager
def campaign() -> Iterator[Campaign]:
    with running() as server:
        yield Campaign(server)


def run(sent: Campaign, runs: int, seed: int) -> None:
    """Raises AssertionError for a broken promise."""
    examples = max(1, runs // BATCH)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        # A failure is reported as it was found: to shrink it would take a server for each try.
        phases=(hypothesis.Phase.generate,),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.lists(requests(), min_size=BATCH, max_size=BATCH))
    def batches(given: list[Request]) -> None:
        sent.batch(given)
        if sent.sent % (BATCH * 20) == 0:
            print(f"{sent.sent} requests in {time.monotonic() - sent.began:.0f} s", file=sys.stderr, flush=True)

    batches()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz engine", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20_000, help="requests (default 20,000)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    problem = ""
    with campaign() as sent:
        try:
            run(sent, args.runs, args.seed)
        except AssertionError as error:
            problem = str(error)
    counts = ", ".join(f"{name} {count}" for name, count in sent.endings.most_common())
    print(f"engine: {sent.sent} requests of seed {args.seed} in {time.monotonic() - sent.began:.0f} s: {counts}")
    tally.record(tally.Count("fuzz engine", passed=int(not problem), failed=int(bool(problem))))
    if problem:
        print(f"a promise broke:\n{problem}")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
