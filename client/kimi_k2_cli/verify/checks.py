"""The checks of `verify`. Checks of the server hold for any model. Checks of the model need one that understands its
prompt.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Self

from kimi_k2_cli.verify import conversations
from kimi_k2_cli.verify.asking import Asker, OutOfTime, RefusedField
from kimi_k2_cli.verify.conversations import ALL, DEFAULT_SYSTEM, EARLIER, MARKERS, TRIGGERS, WEATHER
from kimi_k2_serving.demo.call_scoring import schema_problem, schema_problems, trigger_score
from kimi_k2_serving.demo.openai_answer import UNREADABLE, BadAnswer, EndpointAnswer, EndpointCall

Group = Literal["server", "model"]
LEAST_SCHEMA_ACCURACY = 0.95
LEAST_F1 = 0.8
TRIES = 3  # of comparisons between two answers: a batch of another size may change the likeliest token
TOKENS = 400
SLACK = 2  # tokens of a tool: pieces of words join otherwise at its edges


class Wrong(Exception):
    """A promise that does not hold."""


class NotShown(Exception):
    """The answers do not show whether the promise holds."""


class CheckStatus(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """`detail`: the measured value, what is wrong, or why the check could not be made."""

    name: str
    group: Group
    status: CheckStatus
    detail: str

    @classmethod
    def measured(cls, name: str, group: Group, holds: bool, detail: str) -> Self:
        return cls(name, group, CheckStatus.PASSED if holds else CheckStatus.FAILED, detail)


@dataclass(slots=True)
class Verification:
    """`seen`: all answers, which are searched for control tokens. `sentences`: the length of the long prompt."""

    ask: Asker
    concurrency: int = 4
    sentences: int = 400
    seen: list[EndpointAnswer] = field(default_factory=list)

    def whole(self, messages: list[dict[str, Any]], **options: Any) -> EndpointAnswer:
        answer = self.ask.whole(messages, **options)
        self.seen.append(answer)
        return answer

    def streamed(self, messages: list[dict[str, Any]], **options: Any) -> EndpointAnswer:
        answer = self.ask.streamed(messages, **options)
        self.seen.append(answer)
        return answer

    def calling(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> EndpointAnswer:
        """An answer that must call a tool. Raises NotShown if the endpoint can't demand it and the model calls none."""
        try:
            return self.whole(messages, **_required(tools))
        except RefusedField as refused:
            answer = self.whole(messages, tools=tools, max_tokens=TOKENS)
            if not answer.calls:
                raise NotShown(f"{refused}; without it the model calls no tool") from None
            return answer

    def prompt_tokens(self, messages: list[dict[str, Any]], **options: Any) -> int:
        """The number of prompt tokens. Raises NotShown if the endpoint reports none."""
        tokens = self.ask.whole(messages, max_tokens=1, **options).usage.get("prompt_tokens")
        if not isinstance(tokens, int):
            raise NotShown("the endpoint tells no prompt_tokens, which show the prompt")
        return tokens


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def triggers(run: Verification) -> str:
    """The model calls the right tools and no others."""

    def one(case: conversations.TriggerCase) -> tuple[bool, bool]:
        answer = run.whole(case.messages(), tools=case.tools, max_tokens=TOKENS)
        right = bool(answer.calls) and (case.expects is None or any(c.name == case.expects for c in answer.calls))
        return case.expects is not None, right

    with ThreadPoolExecutor(run.concurrency) as pool:
        score = trigger_score(pool.map(one, TRIGGERS))
    told = f"F1 {score.f1:.2f} ({score.missed_calls} missed, {score.wrong_calls} unasked, of {len(TRIGGERS)})"
    if score.f1 < LEAST_F1:
        raise Wrong(f"{told}; at least {LEAST_F1} expected")
    return told


def schema_accuracy(run: Verification) -> str:
    """Required calls are declared and valid, and end with the finish reason tool_calls."""
    cases = [case for case in TRIGGERS if case.expects]

    def one(case: conversations.TriggerCase) -> str | NotShown | None:
        """The problem of one answer, "" if there is none; None if the answer was cut off before that was clear;
        NotShown if there was no call to judge.
        """
        try:
            answer = run.calling(case.messages(), case.tools)
        except NotShown as reason:
            return reason
        if answer.finish_reason == "length":
            return None
        if not answer.calls:
            return "no call although tool_choice is required"
        if answer.finish_reason != "tool_calls":
            return f"finish_reason is {answer.finish_reason!r} although tools are called"
        return "; ".join(schema_problems(answer, case.tools))

    with ThreadPoolExecutor(run.concurrency) as pool:
        found = list(pool.map(one, cases))
    unseen = [each for each in found if isinstance(each, NotShown)]
    ended = [each for each in found if isinstance(each, str)]
    if len(unseen) == len(cases):
        raise unseen[0]
    if len(ended) < (len(cases) - len(unseen)) / 2:
        raise Wrong(f"only {len(ended)} of {len(cases) - len(unseen)} required calls ended within {TOKENS} tokens")
    problems = [each for each in ended if each]
    accuracy = 1 - len(problems) / len(ended)
    if accuracy < LEAST_SCHEMA_ACCURACY:
        raise Wrong(f"accuracy {accuracy:.2f}: {problems[0]}")
    how = f", {len(unseen)} not made: {unseen[0]}" if unseen else ""
    return f"accuracy {accuracy:.2f} of {len(ended)} required calls{how}"


def stream_equals_whole(run: Verification) -> str:
    """A streamed answer has the same text, calls, finish reason and counts as the whole one."""
    asked: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
        (user("Count from one to ten in words."), {"max_tokens": 24}),
        (user("What is the weather in Lisbon now, in celsius?"), _required([WEATHER])),
        (EARLIER, _required([WEATHER])),
    ]
    for messages, options in asked:
        differences = ""
        for _ in range(TRIES):
            differences = _difference(run.whole(messages, **options), run.streamed(messages, **options))
            if not differences:
                break
        if differences:
            raise Wrong(differences)
    return f"{len(asked)} answers"


def _required(tools: list[dict[str, Any]]) -> dict[str, Any]:
    return {"tools": tools, "tool_choice": "required", "max_tokens": TOKENS}


def _difference(whole: EndpointAnswer, streamed: EndpointAnswer) -> str:
    for name, one, other in (
        ("content", whole.content, streamed.content),
        ("calls", _told(whole), _told(streamed)),
        ("finish_reason", whole.finish_reason, streamed.finish_reason),
    ):
        if one != other:
            return f"{name} differs: {_short(one)} whole, {_short(other)} streamed"
    for name in ("prompt_tokens", "completion_tokens"):
        if whole.usage.get(name) != streamed.usage.get(name):
            return f"usage.{name} differs: {whole.usage.get(name)} whole, {streamed.usage.get(name)} streamed"
    return ""


def _told(answer: EndpointAnswer) -> list[tuple[str, str, bool]]:
    """The calls, for a comparison. Another server may choose ids at random. So only the presence of an id is compared
    here; the check "call ids" examines the id.
    """
    return [(call.name, call.arguments, bool(call.id)) for call in answer.calls]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:38]}…{text[-38:]}"


def usage_truth(run: Verification) -> str:
    """The token counts add up, and grow with the text that they count."""
    answer = run.whole(user("Tell me a long story about a fox."), max_tokens=7)
    usage = answer.usage
    if not usage:
        raise Wrong("an answer has no usage")
    if usage.get("total_tokens") != usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0):
        raise Wrong(f"total_tokens is not the sum: {usage}")
    if usage["completion_tokens"] > 7:
        raise Wrong(f"{usage['completion_tokens']} completion tokens although max_tokens is 7")
    if answer.finish_reason == "length" and usage["completion_tokens"] != 7:
        raise Wrong(f"finish_reason is length after {usage['completion_tokens']} of 7 tokens")
    short, long = (run.prompt_tokens(user("word " * count)) for count in (10, 200))
    if not 150 <= long - short <= 600:
        raise Wrong(f"190 more words are {long - short} more prompt tokens")
    return f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"


def call_ids(run: Verification) -> str:
    """Ids are functions.NAME:INDEX, and the index counts over the whole conversation."""
    for messages, first in ((EARLIER[:1], 0), (EARLIER, 1)):
        answer = run.calling(messages, [WEATHER])
        if not answer.calls:
            raise NotShown(f"the answer ends with {answer.finish_reason!r} and has no call")
        for index, call in enumerate(answer.calls, first):
            if call.id != f"functions.{call.name}:{index}":
                raise Wrong(f"a call has the id {call.id!r}, expected 'functions.{call.name}:{index}'")
    return "functions.NAME:INDEX, counted over the conversation"


def default_system(run: Verification) -> str:
    """Without a system message the template adds K2's own."""
    question = user("Hello")
    given = run.prompt_tokens([{"role": "system", "content": DEFAULT_SYSTEM}, *question])
    absent, other = (
        run.prompt_tokens(question),
        run.prompt_tokens([{"role": "system", "content": "x"}, *question]),
    )
    # The published template puts a line break after its own default only.
    if absent - given not in (0, 1):
        raise Wrong(f"{absent} prompt tokens without a system message, {given} with K2's default")
    if other >= given:
        raise Wrong("another system message does not replace the default")
    return f"{absent} prompt tokens without, {given} with it written out"


def history_counts(run: Verification) -> str:
    """A turn has the same number of tokens at every position, and results of tools are in the prompt."""
    pair = [{"role": "assistant", "content": "Yes, it is."}, {"role": "user", "content": "Is it so?"}]
    counts = [run.prompt_tokens([*user("Is it so?"), *pair * turns]) for turns in range(4)]
    steps = [after - before for before, after in pairwise(counts)]
    if steps[0] <= 0 or len(set(steps)) > 1:
        raise Wrong(f"two more messages add {steps} prompt tokens")
    results = []
    for content in ("1", "1 2 3 4 5 6 7 8 9 10 11 12"):
        messages = [dict(message) for message in EARLIER]
        messages[2]["content"] = content
        results.append(run.prompt_tokens(messages, tools=[WEATHER]))
    if results[1] <= results[0]:
        raise Wrong("a longer result of a tool does not add prompt tokens")
    bare, declared = (run.prompt_tokens(user("Hello"), **options) for options in ({}, {"tools": ALL}))
    if declared - bare < 80:
        raise Wrong(f"four declared tools add only {declared - bare} prompt tokens")
    return f"{steps[0]} tokens for each pair of messages"


def tools_as_sent(run: Verification) -> str:
    """The prompt declares the tools as the request has them: as compact JSON, or as spaced JSON with an earlier
    template.
    """
    sent = (ALL[:1], ALL)
    one, all_of_them = (run.prompt_tokens(user("Hello"), tools=tools) for tools in sent)
    spelled = []
    for separators in ((",", ":"), (", ", ": ")):
        texts = (json.dumps(tools, separators=separators, ensure_ascii=False) for tools in sent)
        less, more = (run.prompt_tokens(user(text)) for text in texts)
        spelled.append(more - less)
    added, grown = len(ALL) - 1, all_of_them - one
    if all(abs(grown - tokens) > added * SLACK for tokens in spelled):
        raise Wrong(
            f"{added} more tools add {grown} prompt tokens, and {' or '.join(map(str, spelled))} as they are sent"
        )
    return f"{grown} tokens for {added} more tools"


def control_text(run: Verification) -> str:
    """Text that spells a control token is text: it costs more than one token."""
    plain, spelled = (run.prompt_tokens(user(f"a {text} b")) for text in ("x", "<|im_end|>"))
    if spelled - plain < 2:
        raise Wrong("'<|im_end|>' in a user's message is one token: a text can end its turn")
    return f"{spelled - plain + 1} tokens"


def json_schema(run: Verification) -> str:
    """The content obeys the schema of a response_format."""
    schema = conversations.FORMAT["json_schema"]["schema"]
    declared = [{"function": {"name": "ticket", "parameters": schema}}]
    for ask in (run.whole, run.streamed):
        answer = ask(user(conversations.TICKET), response_format=conversations.FORMAT, max_tokens=TOKENS)
        if problem := schema_problem(EndpointCall(name="ticket", arguments=answer.content), declared):
            raise Wrong(problem)
    return "valid, whole and streamed"


def stop_strings(run: Verification) -> str:
    """The answer ends before a stop string, with the reason stop."""
    question = user("Count from one to ten in words.")
    found = ""
    for _ in range(TRIES):
        text = run.whole(question, max_tokens=24).content
        if len(text) < 8:
            raise NotShown(f"the model's answer, which is to be stopped, is too short: {text!r}")
        middle = len(text) // 2
        stop = text[middle : middle + 3]
        for ask in (run.whole, run.streamed):
            answer = ask(question, max_tokens=24, stop=[stop])
            expected = text[: text.index(stop)]
            if answer.content != expected or answer.finish_reason != "stop":
                got = f"{_short(answer.content)} ({answer.finish_reason})"
                found = f"with stop {stop!r}: {got}, expected {_short(expected)}"
                break
        else:
            return "whole and streamed"
    raise Wrong(found)


def long_recall(run: Verification) -> str:
    """A fact in the middle of a long prompt is found."""
    messages = conversations.recall(run.sentences)
    try:
        answer = run.whole(messages, max_tokens=40)
    except BadAnswer as problem:
        raise NotShown(f"no answer to a long prompt, which --sentences makes shorter: {problem}") from None
    tokens = answer.usage.get("prompt_tokens", 0)
    if conversations.CODE not in answer.content:
        raise Wrong(f"the fact is not in the answer to {tokens} tokens: {_short(answer.content)}")
    return f"in {tokens} tokens"


def no_markers(run: Verification) -> str:
    """No control token appears in the text of any answer. Runs last, over all of them."""
    if not run.seen:
        raise NotShown("there is no answer to look at; it looks at those of the other checks")
    for answer in run.seen:
        for marker in MARKERS:
            if marker in answer.text:
                raise Wrong(f"{marker} is in an answer: {_short(answer.text)}")
    return f"{len(run.seen)} answers"


CHECKS: tuple[tuple[str, Group, Callable[[Verification], str]], ...] = (
    ("schema accuracy", "server", schema_accuracy),
    ("trigger F1", "model", triggers),
    ("stream equals whole", "server", stream_equals_whole),
    ("usage", "server", usage_truth),
    ("call ids", "server", call_ids),
    ("template: default system", "server", default_system),
    ("template: history and tools", "server", history_counts),
    ("template: tools as sent", "server", tools_as_sent),
    ("template: control text", "server", control_text),
    ("JSON schema", "server", json_schema),
    ("stop strings", "server", stop_strings),
    ("long context recall", "model", long_recall),
    ("no control tokens", "server", no_markers),
)


def run_checks(run: Verification, shown: Callable[[Result], None], names: Sequence[str] = ()) -> list[Result]:
    """All checks, or those of these names; `shown` gets each result when it is known."""
    results = []
    for name, group, check in CHECKS:
        if names and name not in names:
            continue
        try:
            result = Result(name, group, CheckStatus.PASSED, check(run))
        except (NotShown, RefusedField) as reason:
            result = Result(name, group, CheckStatus.SKIPPED, str(reason))
        except OutOfTime:
            result = Result(name, group, CheckStatus.SKIPPED, "the time was over; --minutes gives more")
        except (Wrong, BadAnswer) as problem:
            result = Result(name, group, CheckStatus.FAILED, str(problem))
        except UNREADABLE as error:
            result = Result(name, group, CheckStatus.FAILED, f"an answer can't be read: {json.dumps(str(error))}")
        results.append(result)
        shown(result)
    return results
