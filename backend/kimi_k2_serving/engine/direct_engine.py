"""SGLang's `Engine` without its detokenizer process. This process gets each batch of new ids from the schedulers.

A callback gets each batch as it arrives, so no request needs a task that waits for its next token. Text is decoded
here, by SGLang's own detokenizer, for the requests whose clients read text. It is written for SGLang 0.5.23, whose
internals it overrides: two launch hooks of Engine, the address at which TokenizerManager listens, and what that does
with a batch, with an abort and while it waits for a response. Importing this module imports SGLang.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from sglang.srt.entrypoints.engine import Engine, init_tokenizer_manager
from sglang.srt.managers.detokenizer_manager import DETOKENIZER_MAX_STATES, DetokenizerManager, LimitedCapacityDict
from sglang.srt.managers.io_struct import BatchTokenIDOutput
from sglang.srt.managers.tokenizer_manager import TokenizerManager

ABORTED: Mapping[str, Any] = {"type": "abort", "message": "aborted while it waited"}


class DirectManager(TokenizerManager):  # type: ignore[misc]
    """`deliver(batch)` gets each BatchTokenIDOutput, `ended(rid, finish_reason)` the end of a request that never ran.
    As long as they are None, requests are answered as in SGLang, but without text.
    """

    deliver: Callable[[Any], None] | None = None
    ended: Callable[[str, Mapping[str, Any]], None] | None = None

    def init_ipc_channels(self, port_args: Any) -> None:
        """Listen at the detokenizer's address, too. With data-parallel attention, and on other nodes, each scheduler
        computes that address by itself, so it can't be changed for them.
        """
        super().init_ipc_channels(port_args)
        self.recv_from_detokenizer.bind(port_args.detokenizer_ipc_name)

    def _wait_one_response(self, obj: Any, request: Any = None) -> Any:
        return super()._wait_one_response(obj, request) if self.deliver is None else nothing()

    async def _handle_batch_output(self, recv_obj: Any) -> None:
        if self.deliver is None or not isinstance(recv_obj, BatchTokenIDOutput):
            await super()._handle_batch_output(recv_obj)
            return
        if self.enable_trace:
            self._trace(recv_obj)
        for rid, finish in zip(recv_obj.rids, recv_obj.finished_reasons, strict=True):
            if finish is not None:
                self._forget(rid)
        self.deliver(recv_obj)

    def _trace(self, batch: Any) -> None:
        """Record the events of a request's span that SGLang itself records where it answers requests."""
        for row, (rid, finish) in enumerate(zip(batch.rids, batch.finished_reasons, strict=True)):
            if (state := self.rid_to_state.get(rid)) is None:
                continue
            if state.time_stats.first_token_time == 0.0:
                state.time_stats.set_first_token_time()
                state.time_stats.set_last_time()
            if finish is not None:
                state.time_stats.set_finished_time(span_attrs=self.convert_to_span_attrs(state, batch, row))

    def _handle_abort_req(self, recv_obj: Any) -> None:
        if self.ended is None:
            super()._handle_abort_req(recv_obj)
            return
        self._forget(recv_obj.rid)
        self.ended(recv_obj.rid, recv_obj.finished_reason or ABORTED)

    def _forget(self, rid: str) -> None:
        state = self.rid_to_state.pop(rid, None)
        if state is not None:
            state.finished = True
            self._release_lora_once(state)


async def nothing() -> AsyncIterator[Any]:
    return
    yield


class DirectEngine(Engine):  # type: ignore[misc]
    init_tokenizer_manager_func = staticmethod(
        functools.partial(init_tokenizer_manager, TokenizerManagerClass=DirectManager)
    )

    @classmethod
    def _launch_detokenizer_subprocesses(cls, **_: Any) -> tuple[list[Any], list[str]]:
        return [], []


class BatchDecoder(DetokenizerManager):  # type: ignore[misc]
    """SGLang's incremental detokenizer as a plain object. It keeps state per request until the request's end."""

    def __init__(self, tokenizer: Any, *, vocab_size: int, row_by_row: bool) -> None:
        # DetokenizerManager's __init__ is not called: it opens sockets and loads the tokenizer again.
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.decode_status = LimitedCapacityDict(capacity=DETOKENIZER_MAX_STATES)
        self.disable_tokenizer_batch_decode = row_by_row
        self.is_tool_call_parser_gpt_oss = False
        self.tool_close_token_ids: frozenset[int] = frozenset()

    def decode(self, batch: Any, rows: Sequence[int]) -> list[str]:
        """The new text of these rows of a BatchTokenIDOutput. It must see all batches of a request."""
        fields = (
            "rids",
            "finished_reasons",
            "decoded_texts",
            "decode_ids",
            "read_offsets",
            "skip_special_tokens",
            "spaces_between_special_tokens",
            "no_stop_trim",
        )
        part = {name: [getattr(batch, name)[row] for row in rows] for name in fields}
        return list(self._decode_batch_token_id_output(SimpleNamespace(**part)))

    def forget(self, rid: str) -> None:
        """Drop the state of a request that has ended without a last row."""
        self.decode_status.pop(rid, None)


def text_decoder(manager: DirectManager) -> BatchDecoder:
    return BatchDecoder(
        manager.tokenizer,
        vocab_size=len(manager.tokenizer),
        row_by_row=bool(manager.server_args.disable_tokenizer_batch_decode),
    )
