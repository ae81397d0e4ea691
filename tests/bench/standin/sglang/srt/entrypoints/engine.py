"""An `Engine` without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import uvloop

from sglang.srt.managers.scheduler import CAPACITY, CONTEXT
from sglang.srt.managers.tokenizer_manager import TokenizerManager


def init_tokenizer_manager(
    server_args: Any,
    port_args: Any,
    TokenizerManagerClass: type[TokenizerManager] = TokenizerManager,  # noqa: N803
) -> TokenizerManager:
    return TokenizerManagerClass()


class Engine:
    init_tokenizer_manager_func = staticmethod(init_tokenizer_manager)

    def __init__(self, **server_args: Any) -> None:
        self.loop = uvloop.new_event_loop()
        self.tokenizer_manager = self.init_tokenizer_manager_func(server_args, None)
        self._scheduler_init_result = SimpleNamespace(
            scheduler_infos=[{"max_req_input_len": CONTEXT, "max_total_num_tokens": CAPACITY}]
        )

    async def async_generate(
        self, input_ids: list[int], sampling_params: dict[str, Any], rid: str, stream: bool = False, **_: Any
    ) -> Any:
        most = int(sampling_params.get("max_new_tokens", 128))
        responses = self.tokenizer_manager.begin(rid, len(input_ids), most)
        return responses if stream else [each async for each in responses][-1]
