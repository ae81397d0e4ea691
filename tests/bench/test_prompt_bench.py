"""The benchmark of prompts runs, and compares like with like: it asserts equal ids itself."""

from __future__ import annotations

from pathlib import Path

from tests.bench.prompt import measure
from tests.support.vocabulary import write_small_checkpoint


def test_it_measures_a_small_conversation(tmp_path: Path) -> None:
    result = measure(write_small_checkpoint(tmp_path), tokens=50_000, repeat=1, with_tokenizers=False)
    assert result["tokens"] >= 50_000
    assert set(result["processor_median_ms"]) == {"cold", "tiktoken", "next", "next_json", "next_read", "new_text"}
    assert result["goals"] == {"cold_over_tiktoken": 1.2, "next_less_new_text_ms": 5.0}
