"""One generation between the supervisor and its caller: its turn, the host's answers, and what they mean."""

from __future__ import annotations

import asyncio
import logging

from kimi_k2_serving.core.errors import EngineLost, EngineUnavailable, Internal, InvalidValue, Overloaded, ServingError
from kimi_k2_serving.core.sampling import GRAMMARS
from kimi_k2_serving.engine import wire
from kimi_k2_serving.engine.port import Chunk, End, EndReason, Generation, TokenLogprob, TokenUsage

logger = logging.getLogger(__name__)

Answer = wire.Output | wire.Failed | ServingError


class GenerationInFlight:
    """`turn` is set to whether it begins, or to why not. `answers` holds no more than the generation has outputs, one
    for every id at the most: its length is bounded by the context's. To be made on the loop.
    """

    def __init__(self) -> None:
        self.turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()

    def lose(self, unavailable: EngineUnavailable) -> None:
        """The engine has died; `unavailable` is for one that it never had."""
        if self.turn.done():
            self.answers.put_nowait(EngineLost("the engine died while it worked on this request; send it again"))
        else:
            self.turn.set_exception(unavailable)


def read_answer(answer: Answer, generation: Generation) -> Chunk:
    """A chunk, or the error that the answer to this generation stands for."""
    match answer:
        case ServingError():
            raise answer
        case wire.Failed(status=status, log=log):
            logger.warning("the engine refused a request: %d %s", status, log)
            raise refusal(status, generation)
        case wire.Output():
            return Chunk(
                ids=tuple(answer.ids),
                text=answer.text,
                usage=TokenUsage(answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens),
                end=ending(answer),
                logprobs=tuple(
                    TokenLogprob(token_id, value, tuple((other, each) for each, other in top))
                    for value, token_id, top in answer.logprobs
                ),
            )


def ending(answer: wire.Output) -> End | None:
    """SGLang names a sequence of ids that ended it by all of them; the last is what is told."""
    if not answer.end:
        return None
    matched = answer.matched
    if isinstance(matched, list):
        matched = matched[-1] if matched else None
    return End(EndReason(answer.end), matched)


def refusal(status: int, generation: Generation) -> InvalidValue | Overloaded | Internal:
    if status in (429, 503):
        return Overloaded("the engine's queue is full; retry shortly")
    if status < 500:
        for grammar in GRAMMARS:
            if grammar in generation.sampling:
                return InvalidValue("the engine can't use this grammar, or no text satisfies it", field=grammar)
        return InvalidValue(
            "the engine refused the request: its sampling parameters do not fit the model", field="sampling_parameters"
        )
    return Internal("the engine failed on this request")
