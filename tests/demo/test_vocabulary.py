from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.demo import vocabulary as trained

FIRST = 4_096  # the first control id of the demo
K2_FIRST = 163_584  # and K2's
MARKERS = ("calls_section_begin", "calls_section_end", "call_begin", "call_argument_begin", "call_end")


def read(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def vocabulary(demo: Path) -> Vocabulary:
    return Vocabulary.load(demo)


@pytest.fixture(scope="module")
def converted(demo: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(demo / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


def test_there_are_4096_ranks_and_256_reserved_ids(vocabulary: Vocabulary, demo: Path) -> None:
    assert vocabulary.size == read(demo / "config.json")["vocab_size"] == FIRST + 256
    assert vocabulary.control_ids == frozenset(range(FIRST, FIRST + 256))


def test_control_tokens_are_laid_out_as_in_k2(vocabulary: Vocabulary) -> None:
    names = ("[BOS]", "[EOS]", "<|im_end|>", "<|im_middle|>", "[UNK]", "[PAD]", "<|reserved_token_4101|>")
    assert [vocabulary.control(name) - FIRST for name in names] == [0, 1, 2, 17, 254, 255, 5]
    assert vocabulary.stop_ids == (FIRST + 2, FIRST + 1)


def test_the_tool_markers_are_not_special_and_all_other_control_tokens_are(demo: Path) -> None:
    tokens = read(demo / "tokenizer.json")["added_tokens"]
    assert {token["content"] for token in tokens if not token["special"]} == {f"<|tool_{name}|>" for name in MARKERS}


def test_names_offsets_and_flags_are_those_of_the_published_file(demo: Path, reference: Path) -> None:
    def by_offset(directory: Path, first: int) -> dict[int, dict[str, object]]:
        table = read(directory / "tokenizer_config.json")["added_tokens_decoder"]
        return {int(token) - first: entry for token, entry in table.items()}

    assert by_offset(demo, FIRST) == by_offset(reference, K2_FIRST)
    ours, theirs = read(demo / "tokenizer_config.json"), read(reference / "tokenizer_config.json")
    assert theirs.keys() - ours.keys() == {"auto_map"}
    for key in theirs.keys() - {"auto_map", "added_tokens_decoder", "tokenizer_class", "model_max_length"}:
        assert ours[key] == theirs[key], key


def test_the_configuration_has_every_field_of_the_published_one_but_the_quantization(
    demo: Path, reference: Path
) -> None:
    ours, theirs = read(demo / "config.json"), read(reference / "config.json")
    assert theirs.keys() - ours.keys() == {"quantization_config"}
    same = ("architectures", "model_type", "scoring_func", "topk_method", "moe_layer_freq", "routed_scaling_factor")
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert ours["rope_scaling"].keys() == theirs["rope_scaling"].keys()


def test_an_answer_ends_with_im_end(demo: Path, vocabulary: Vocabulary) -> None:
    assert read(demo / "generation_config.json")["eos_token_id"] == vocabulary.control("<|im_end|>")


def test_yarn_reaches_the_declared_context(demo: Path) -> None:
    config = read(demo / "config.json")
    scaling = config["rope_scaling"]
    assert (
        scaling["factor"] * scaling["original_max_position_embeddings"] == config["max_position_embeddings"] == 32_768
    )


@given(text=st.text(max_size=200))
def test_any_text_encodes_the_same_in_tokenizer_json_and_tiktoken(
    vocabulary: Vocabulary, converted: Tokenizer, text: str
) -> None:
    assert converted.encode(text, add_special_tokens=False).ids == vocabulary.encode(text)


@given(text=st.lists(st.sampled_from(trained.corpus().split()), max_size=60).map(" ".join))
def test_words_of_the_corpus_encode_the_same_and_come_back(
    vocabulary: Vocabulary, converted: Tokenizer, text: str
) -> None:
    ids = vocabulary.encode(text)
    assert converted.encode(text, add_special_tokens=False).ids == ids
    assert b"".join(map(vocabulary.token_bytes, ids)).decode() == text == converted.decode(ids)


def test_ordinary_text_costs_less_than_a_token_per_three_bytes(vocabulary: Vocabulary) -> None:
    text = "Please tell me whether it will rain tomorrow, and put a meeting with Maria into my calendar."
    assert len(vocabulary.encode(text)) * 3 < len(text)
