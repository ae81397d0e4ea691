"""The detokenizer, which makes up texts, too."""

from __future__ import annotations

from typing import Any

DETOKENIZER_MAX_STATES = 1 << 16


class LimitedCapacityDict(dict[str, Any]):
    def __init__(self, *, capacity: int) -> None:
        super().__init__()


class DetokenizerManager:
    def _decode_batch_token_id_output(self, recv_obj: Any) -> list[str]:
        return [" text" * len(ids) for ids in recv_obj.decode_ids]
