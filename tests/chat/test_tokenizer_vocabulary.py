"""Any model's vocabulary from its tokenizer.json: the same bytes and ids as the model's own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from kimi_k2_serving.chat.tokenizer_vocabulary import TokenizerVocabulary, sentence_piece
from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.core.tokens import TextDecoder, Vocabulary
from tests.support.demo import demo

__all__ = ["demo"]

TEXTS = ("Once upon a time", " Zürich, 漢字 🏃\n\n\tx", "<|im_end|> [EOS]", "", "\ud800 half")


def test_a_byte_level_tokenizer_has_the_bytes_and_ids_of_the_vocabulary_that_it_was_made_from(demo: Path) -> None:
    ours, known = TokenizerVocabulary.read(demo, 0), Vocabulary.load(demo)
    assert ours.size == known.size
    assert [ours.token_bytes(i) for i in range(ours.size)] == [known.token_bytes(i) for i in range(known.size)]
    assert [ours.encode(text) for text in TEXTS] == [known.encode(text) for text in TEXTS]
    assert not set(ours.encode("<|im_end|>")) & ours.control_ids


def test_its_texts_are_those_of_the_tokenizer_itself(demo: Path) -> None:
    ours, theirs = TokenizerVocabulary.read(demo, 0), Tokenizer.from_file(str(demo / "tokenizer.json"))
    for text in TEXTS[:2]:
        decoder, ids = TextDecoder(ours), ours.encode(text)
        assert "".join(decoder.feed([each]) for each in ids) + decoder.finish() == theirs.decode(ids) == text


def test_ids_of_the_model_beyond_the_tokenizer_have_no_text(demo: Path) -> None:
    size = Vocabulary.load(demo).size
    ours = TokenizerVocabulary.read(demo, size + 8)
    assert ours.size == size + 8
    assert ours.token_bytes(size + 7) == b""
    with pytest.raises(InvalidValue):
        ours.token_bytes(size + 8)


@pytest.mark.parametrize(
    ("spelling", "data"), [("▁the", b" the"), ("<0xE6>", b"\xe6"), ("<0xE6", b"<0xE6"), ("é", "é".encode())]
)
def test_a_sentencepiece_spelling_is_text_with_spaces_or_one_byte(spelling: str, data: bytes) -> None:
    assert sentence_piece(spelling) == data


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, NotFound), ("{", InvalidValue), ("[]", InvalidValue), ('{"model": {"type": "Unigram"}}', InvalidValue)],
)
def test_what_is_no_such_tokenizer_is_refused_by_its_file(tmp_path: Path, content: str | None, error: Any) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(error) as caught:
        TokenizerVocabulary.read(tmp_path, 10)
    assert caught.value.field == "tokenizer.json"


def test_a_control_token_is_named_but_has_no_text(demo: Path) -> None:
    document = json.loads((demo / "tokenizer.json").read_text())
    special = [each for each in document["added_tokens"] if each["special"]]
    ours = TokenizerVocabulary.read(demo, 0)
    assert {each["content"] for each in special} <= set(ours.controls)
    assert all(ours.token_bytes(number) == b"" for number in ours.control_ids)
