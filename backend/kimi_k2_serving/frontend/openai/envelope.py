"""The parts that several of OpenAI's routes share: the error envelope, usage and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.typed_json import Object
from kimi_k2_serving.engine.port import TokenLogprob, TokenUsage
from kimi_k2_serving.frontend import sse


class OpenAIEnvelope:
    """`{"error": {message, type, param, code}}`, in streams as one data frame."""

    idle = sse.COMMENT

    def error(self, error: ServingError, request_id: str) -> Json:
        message = f"{error.field}: {error.detail}" if error.field else error.detail
        return {
            "error": {"message": message, "type": error.openai_type, "param": error.field or None, "code": error.code}
        }

    def frame(self, error: ServingError, request_id: str) -> bytes:
        return sse.data(self.error(error, request_id))


class ResponsesEnvelope(OpenAIEnvelope):
    """In a stream of the Responses API an error is a flat event named `error`."""

    def frame(self, error: ServingError, request_id: str) -> bytes:
        message = f"{error.field}: {error.detail}" if error.field else error.detail
        value: Object = {"type": "error", "code": error.code, "message": message, "param": error.field or None}
        return sse.event("error", {**value, "sequence_number": 0})


def usage(counts: TokenUsage) -> Object:
    """The usage object. Moonshot's own clients read `cached_tokens` at its top level."""
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "cached_tokens": counts.cached,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
    }


class ContentLogprobs:
    """Chat's `logprobs.content` of one choice. It omits control tokens and tool calls."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._begin = vocabulary.control("<|tool_calls_section_begin|>")
        self._end = vocabulary.control("<|tool_calls_section_end|>")
        self._names = {token: name for name, token in vocabulary.controls.items()}
        self._in_calls = False

    def feed(self, logprobs: Iterable[TokenLogprob]) -> list[Json]:
        found: list[Json] = []
        for each in logprobs:
            if each.token_id in (self._begin, self._end):
                self._in_calls = each.token_id == self._begin
            elif not self._in_calls and each.token_id not in self._vocabulary.control_ids:
                top: list[Json] = [self._entry(token, value) for token, value in each.top]
                found.append({**self._entry(each.token_id, each.logprob), "top_logprobs": top})
        return found

    def _entry(self, token: int, logprob: float) -> Object:
        data = self._vocabulary.token_bytes(token)
        return {"token": token_text(self._vocabulary, token, self._names), "logprob": logprob, "bytes": list(data)}


def token_text(vocabulary: Vocabulary, token: int, names: dict[int, str]) -> str:
    """A token as readable text: a control token by its name, invalid UTF-8 as U+FFFD."""
    return names.get(token) or vocabulary.token_bytes(token).decode("utf-8", "replace")


def legacy_logprobs(
    vocabulary: Vocabulary, logprobs: Sequence[TokenLogprob], offset: int, *, before: int | None = None
) -> Object:
    """The four parallel lists of the completions API. `offset` is the position of the first token in the text, in
    characters. `before`: a token before the others that has no log-probability, the first of an echoed prompt.
    """
    names = {token: name for name, token in vocabulary.controls.items()}
    tokens: list[Json] = []
    offsets: list[Json] = []
    tops: list[Json] = []
    values: list[Json] = [each.logprob for each in logprobs]
    if before is not None:
        text = token_text(vocabulary, before, names)
        tokens, offsets, tops, values = [text], [offset], [None], [None, *values]
        offset += len(text)
    for each in logprobs:
        text = token_text(vocabulary, each.token_id, names)
        tokens.append(text)
        offsets.append(offset)
        offset += len(text)
        # Of two tokens with the same text, such as parts of characters, the more probable one counts.
        tops.append({token_text(vocabulary, token, names): value for token, value in reversed(each.top)})
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
