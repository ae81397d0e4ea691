"""An engine that does what the last message of the prompt says, over real ids: no Triton, no model.

    say TEXT             answers TEXT                    call NAME JSON     one call; more behind ` ; `
    wait SECONDS REST    does REST after a while         fail CODE          raises that error of the tree
    break CODE           "one two", then that error      raw TEXT           TEXT, {marker} for control tokens
    once CODE ID REST    fails the first time that it sees this ID, and does REST from then on

Anything else, a tool's result included, is answered with `echo: ` and itself. Answers come one id at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from kimi_k2_serving.core import errors
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine.port import Chunk, End, EndReason, Generation, TokenLogprob, TokenUsage
from kimi_k2_serving.frontend.port import Health

ERRORS = {
    kind.code: kind
    for kind in (
        errors.Overloaded,
        errors.EngineUnavailable,
        errors.EngineLost,
        errors.RequestQuarantined,
        errors.InvalidValue,
        errors.DeadlineExceeded,
        errors.Internal,
    )
}
CACHED = 4


class ScriptedEngine:
    def __init__(self, vocabulary: Vocabulary, *, pause: float = 0.0) -> None:
        self._vocabulary = vocabulary
        self._names = {token: name for name, token in vocabulary.controls.items()}
        self._pause = pause
        self._seen: set[str] = set()
        self.runs: list[Generation] = []
        self.in_flight = 0
        self.ended_early = 0
        self.state = Health(True)

    async def health(self) -> Health:
        return self.state

    async def close(self) -> None:
        pass

    async def generate(self, run: Generation) -> AsyncIterator[Chunk]:
        self.runs.append(run)
        self.in_flight += 1
        complete = False
        try:
            async for chunk in self._play(run, self.last_message(run.input_ids)):
                complete = chunk.end is not None
                yield chunk
        finally:
            self.in_flight -= 1
            self.ended_early += not complete

    def last_message(self, ids: list[int]) -> str:
        """The text of the last message before the header of the answer; all of a prompt that is no chat."""
        middle, end = self._vocabulary.control("<|im_middle|>"), self._vocabulary.control("<|im_end|>")
        if end not in ids:
            return self.text(ids)
        last = len(ids) - 1 - ids[::-1].index(end)
        first = last - 1 - ids[:last][::-1].index(middle)
        return self.text(ids[first + 1 : last])

    def text(self, ids: list[int]) -> str:
        return b"".join(map(self._vocabulary.token_bytes, ids)).decode("utf-8", "replace")

    async def _play(self, run: Generation, command: str) -> AsyncIterator[Chunk]:
        verb, _, rest = command.partition(" ")
        if verb == "wait":
            seconds, _, rest = rest.partition(" ")
            await asyncio.sleep(float(seconds))
            verb, _, rest = rest.partition(" ")
        if verb == "once":
            code, word, rest = rest.split(" ", 2)
            if word not in self._seen:
                self._seen.add(word)
                raise ERRORS[code]("as the script says")
            verb, _, rest = rest.partition(" ")
        if verb == "fail":
            raise ERRORS[rest]("as the script says")
        ids = self._answer(verb, rest, command)
        async for chunk in self._chunks(run, ids, whole=verb != "break"):
            yield chunk
        if verb == "break":
            raise ERRORS[rest]("as the script says")

    def _answer(self, verb: str, rest: str, command: str) -> list[int]:
        control, encode = self._vocabulary.control, self._vocabulary.encode
        if verb == "say":
            return encode(rest)
        if verb == "break":
            return encode("one two")
        if verb == "raw":
            return self._raw(rest)
        if verb != "call":
            return encode(f"echo: {command}")
        ids = [control("<|tool_calls_section_begin|>")]
        for index, call in enumerate(rest.split(" ; ")):
            name, _, arguments = call.partition(" ")
            ids += [control("<|tool_call_begin|>"), *encode(f"functions.{name}:{index}")]
            ids += [control("<|tool_call_argument_begin|>"), *encode(arguments), control("<|tool_call_end|>")]
        return [*ids, control("<|tool_calls_section_end|>")]

    def _raw(self, text: str) -> list[int]:
        first, *pieces = text.split("{")
        ids = self._vocabulary.encode(first)
        for piece in pieces:
            name, closed, rest = piece.partition("}")
            if closed and f"<|{name}|>" in self._vocabulary.controls:
                ids += [self._vocabulary.control(f"<|{name}|>"), *self._vocabulary.encode(rest)]
            else:
                ids += self._vocabulary.encode("{" + piece)
        return ids

    async def _chunks(self, run: Generation, ids: list[int], *, whole: bool) -> AsyncIterator[Chunk]:
        room = run.sampling["max_new_tokens"]
        reason = EndReason.STOP
        ids = [*ids, self._vocabulary.control("<|im_end|>")] if whole else ids
        if len(ids) > room:
            ids, reason = ids[:room], EndReason.LENGTH
        for position, token in enumerate(ids):
            if self._pause:
                await asyncio.sleep(self._pause)
            last = whole and position == len(ids) - 1
            yield Chunk(
                (token,),
                "",
                TokenUsage(len(run.input_ids), 1, CACHED),
                End(reason) if last else None,
                self._logprobs(run, token),
                self._prompt_logprobs(run) if position == 0 else (),
            )

    def _prompt_logprobs(self, run: Generation) -> tuple[TokenLogprob, ...]:
        if not run.prompt_logprobs:
            return ()
        return tuple(replace(self._logprobs(run, token)[0], logprob=-1.5) for token in run.input_ids[1:])

    def _logprobs(self, run: Generation, token: int) -> tuple[TokenLogprob, ...]:
        if run.top_logprobs is None:
            return ()
        top = tuple((other, -0.5 - other) for other in range(run.top_logprobs))
        return (TokenLogprob(token, -0.25, top),)
