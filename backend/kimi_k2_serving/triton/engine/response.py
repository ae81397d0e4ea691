"""Writes one request's responses: turns the engine's chunks into the tensors of each response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.phrases import PhraseScanner
from kimi_k2_serving.engine.port import Chunk, TokenLogprob, merge_choices
from kimi_k2_serving.engine.text import TextEncoder
from kimi_k2_serving.triton import tensors
from kimi_k2_serving.triton.engine.request import Job
from kimi_k2_serving.triton.signatures import ENGINE_OUTPUTS, TensorSpec

OUTPUTS = {tensor.name: tensor for tensor in ENGINE_OUTPUTS}
Outputs = list[tuple[TensorSpec, Sequence[Any]]]


class StopText:
    """Passes text through up to the first stop string. Holds back only text that may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._scanner = PhraseScanner(stops)
        self._stopped = False

    def feed(self, text: str) -> str:
        if self._stopped:
            return ""
        scan = self._scanner.scan(text)
        self._stopped = scan.phrase is not None
        return scan.text

    def finish(self) -> str:
        return "" if self._stopped else self._scanner.release()


class ChoiceWriter:
    """The values of one choice, by output name."""

    def __init__(self, job: Job, encoder: TextEncoder) -> None:
        self._job = job
        self._encoder = encoder
        # Whether postprocess was told that it reads the ids itself.
        self.relayed = False
        self._stops = StopText(job.stops)
        self._cumulative = 0.0
        # Whether some response has had ids. A heartbeat has none.
        self._begun = False

    def values(self, chunk: Chunk) -> dict[str, Any]:
        job, last = self._job, chunk.end is not None
        text = self._stops.feed(chunk.text) + (self._stops.finish() if last else "")
        values: dict[str, Any] = {"text_output": job.echo + text, "output_ids": chunk.ids}
        if job.logprobs:
            values["logprobs"] = json.dumps([self._described(each) for each in chunk.logprobs])
        if job.prompt_logprobs and chunk.ids and not self._begun:
            values["prompt_logprobs"] = json.dumps([None, *map(self._described, chunk.prompt_logprobs)])
        self._cumulative += sum(each.logprob for each in chunk.logprobs)
        if job.num_output_tokens or not job.stream:
            values["num_output_tokens"] = len(chunk.ids)
        if job.num_input_tokens or last:
            values["num_input_tokens"] = chunk.usage.prompt
        if last or (job.num_input_tokens and chunk.ids and not self._begun):
            values["num_cached_tokens"] = chunk.usage.cached
        self._begun = self._begun or bool(chunk.ids)
        if chunk.relayed:
            self.relayed = True
            values["relay"] = ""
        if chunk.end is not None:
            if job.generation.reader or self.relayed:
                values["num_output_tokens"] = chunk.usage.completion
            values["finish_reason"] = chunk.end.reason.value
            if chunk.end.matched is not None:
                values["stop_reason"] = str(chunk.end.matched)
            if job.cumulative_logprob:
                values["cumulative_logprob"] = self._cumulative
        return values

    def _described(self, logprob: TokenLogprob) -> dict[str, dict[str, Any]]:
        """One log-probability in the form of Triton's vLLM backend: {token_id: {logprob, rank, decoded_token}}. The
        rank of the chosen id is null if it is not among the top alternatives.
        """
        ranked = {token_id: rank for rank, (token_id, _) in enumerate(logprob.top, 1)}
        entries = {logprob.token_id: logprob.logprob, **dict(logprob.top)}
        return {
            str(token_id): {
                "logprob": value,
                "rank": ranked.get(token_id),
                "decoded_token": self._encoder.decode([token_id]),
            }
            for token_id, value in entries.items()
        }


class ResponseWriter:
    """`feed(chunk)` -> (tensors, final). Without streaming, it returns no tensors before the last chunk."""

    def __init__(self, job: Job, encoder: TextEncoder) -> None:
        self._job = job
        self._choices = [ChoiceWriter(job, encoder) for _ in range(job.n)]
        self._waiting: list[Chunk] = []
        self._context = job.context

    def feed(self, chunk: Chunk) -> tuple[Outputs, bool]:
        """The tensors for a chunk, which belongs to one choice, and whether they are the final ones."""
        if self._job.stream:
            return self._outputs([chunk]), chunk.last
        self._waiting.append(chunk)
        if not chunk.last:
            return [], False
        return self._outputs(sorted(merge_choices(self._waiting), key=lambda each: each.choice)), True

    def failure(self, error: ServingError) -> Any:
        """The last response of a request that fails. If postprocess has an open response of this request, the error
        goes to postprocess as an output: an error from here would keep the ensemble's request in Triton for ever.
        """
        if not self._choices[0].relayed:
            return tensors.failure(error)
        values = {"output_ids": (), "relay": [str(error)], "request_context": [self._context or ""]}
        return tensors.response([(OUTPUTS[name], each) for name, each in values.items() if name in self._job.outputs])

    def _outputs(self, chunks: Sequence[Chunk]) -> Outputs:
        """Outputs with one element for each chunk. `output_ids` has the ids of all chunks, one after the other."""
        columns = [self._choices[chunk.choice].values(chunk) for chunk in chunks]
        names = dict.fromkeys(name for values in columns for name in values)
        found: dict[str, Sequence[Any]] = {name: [values.get(name, "") for values in columns] for name in names}
        found["output_ids"] = chunks[0].ids if len(chunks) == 1 else [token for chunk in chunks for token in chunk.ids]
        if self._job.n > 1:
            found["index"] = [chunk.choice for chunk in chunks]
        if self._context is not None:
            found["request_context"] = [self._context]
            self._context = self._context.partition("\n")[0]
        # Send only requested outputs: each tensor costs time in every response, all the way to the client.
        return [(OUTPUTS[name], each) for name, each in found.items() if name in self._job.outputs]
