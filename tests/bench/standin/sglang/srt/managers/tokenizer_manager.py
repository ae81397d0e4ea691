"""What the host overrides and calls of SGLang's TokenizerManager."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from sglang.srt.managers.io_struct import BatchTokenIDOutput
from sglang.srt.managers.scheduler import CONTEXT, Scheduler

# As many as the demo checkpoint has.
VOCABULARY = range(4352)
RESOLVED = {
    "device": "cpu",
    "chunked_prefill_size": 2048,
    "attn_dp_size": 1,
    "dp_size": 1,
    "grammar_backend": "xgrammar",
}


class TokenizerManager:
    def __init__(self) -> None:
        self.scheduler = Scheduler(self._handle_batch_output, rate=float(os.environ["SCRIPTED_RATE"]))
        self.rid_to_state: dict[str, Any] = {}
        self.tokenizer = VOCABULARY
        self.enable_trace = False
        self.context_len = CONTEXT
        self.num_reserved_tokens = 0
        self.model_config = SimpleNamespace(vocab_size=len(VOCABULARY))
        self.server_args = SimpleNamespace(
            enable_deterministic_inference=False,
            disable_tokenizer_batch_decode=False,
            resolved_dict=lambda: RESOLVED,
        )
        self._file = tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="scripted-")  # noqa: SIM115
        self.load_snapshot_reader = SimpleNamespace(path=self._file.name, read_all=self.scheduler.load)

    def abort_request(self, rid: str) -> None:
        self.scheduler.abort(rid)

    def begin(self, rid: str, prompt: int, most: int) -> Any:
        """The responses to a new request."""
        self.rid_to_state[rid] = state = SimpleNamespace(rid=rid, finished=False, ended=asyncio.Event())
        self.scheduler.begin(rid, prompt, most)
        return self._wait_one_response(state)

    async def _wait_one_response(self, obj: Any, request: Any = None) -> AsyncIterator[dict[str, Any]]:
        await obj.ended.wait()
        yield {}

    async def _handle_batch_output(self, recv_obj: BatchTokenIDOutput) -> None:
        for rid, finish in zip(recv_obj.rids, recv_obj.finished_reasons, strict=True):
            if finish is not None:
                self.rid_to_state.pop(rid).ended.set()

    def _handle_abort_req(self, recv_obj: Any) -> None:
        self.rid_to_state.pop(recv_obj.rid).ended.set()

    def _release_lora_once(self, state: Any) -> None:
        pass
