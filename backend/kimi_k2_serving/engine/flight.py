"""One generation between the supervisor and its caller: its turn to start, and the host's answers as chunks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from kimi_k2_serving.core.errors import (
    Cancelled,
    EngineLost,
    EngineUnavailable,
    Internal,
    InvalidValue,
    Overloaded,
    ServingError,
)
from kimi_k2_serving.core.sampling import GRAMMARS
from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.port import Chunk, End, EndReason, Generation, Load, TokenLogprob, TokenUsage

logger = logging.getLogger(__name__)

Answer = wire.Output | wire.Relayed | wire.Failed | ServingError


class GenerationInFlight:
    """The future `turn` becomes True when the generation may start and False if it was aborted before, or it fails with
    an error. `answers` holds at most one item per output id, so the context length bounds it. Create it on the event
    loop.
    """

    def __init__(self) -> None:
        self.turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()

    def lose(self, unavailable: EngineUnavailable) -> None:
        """End this generation because the engine has died. It fails with `unavailable` if the engine never had it, else
        with EngineLost.
        """
        if self.turn.done():
            self.answers.put_nowait(EngineLost("the engine died while it worked on this request; send it again"))
        else:
            self.turn.set_exception(unavailable)


def read_answer(answer: Answer, generation: Generation) -> Chunk:
    """The chunk of an Output or a Relayed. Raises the ServingError that any other answer stands for."""
    match answer:
        case ServingError():
            raise answer
        case wire.Failed(status=status, log=log):
            # SGLang quotes what the client sent when it refuses it.
            reason = log if status >= 500 else "the client is told why"
            logger.warning("the engine refused generation %s: %d %s", generation.uid, status, reason)
            raise refusal(status, generation)
        case wire.Relayed():
            return Chunk((), "", TokenUsage(len(generation.input_ids)), relayed=True)
        case wire.Output():
            return Chunk(
                ids=tuple(answer.ids),
                text=answer.text,
                usage=TokenUsage(len(generation.input_ids), answer.completion_tokens, answer.cached_tokens),
                end=ending(answer),
                logprobs=token_logprobs(answer.logprobs),
                prompt_logprobs=token_logprobs(answer.prompt_logprobs),
            )


def token_logprobs(given: Sequence[wire.Logprobs]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(token_id, value, tuple((other, each) for each, other in top)) for value, token_id, top in given
    )


def ending(answer: wire.Output) -> End | None:
    """The ending of an Output, or None. If a sequence of token ids ended the run, SGLang returns all of them, and
    `matched` is the last.
    """
    if not answer.end:
        return None
    matched = answer.matched
    if isinstance(matched, list):
        matched = matched[-1] if matched else None
    return End(EndReason(answer.end), matched)


def load_of(beat: wire.Beat, before: Load) -> Load:
    totals = before.totals.adding(beat.finished, beat.generated)
    return Load(beat.running, beat.queued, beat.kv_usage, before.restarts, beat.used, beat.capacity, totals)


def refusal(status: int, generation: Generation) -> ServingError:
    if status == wire.READER_GONE:
        if generation.relayed:
            return EngineLost("the rest of this answer was lost; send the request again")
        return Cancelled("the output could not be sent: its reader is gone or does not read")
    if status in (429, 503):
        return Overloaded("the engine's queue is full; retry shortly")
    if status < 500:
        for grammar in GRAMMARS:
            if grammar in generation.sampling:
                return InvalidValue(
                    "the engine can't use this grammar, or no text satisfies it; change it", field=grammar
                )
        return InvalidValue(
            "the engine refused these sampling parameters for this model; change them", field="sampling_parameters"
        )
    return Internal("the engine failed on this request")
