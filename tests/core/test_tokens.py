"""core/tokens.py and the modules that it uses: text to the published ids and back (rules T1 to T9)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kimi_k2_serving.core import tokens
from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidValue, NotFound, ServingError
from kimi_k2_serving.core.messages import Conversation, Message, Role
from kimi_k2_serving.core.pieces import PART_CHARACTERS, RUN_CHARACTERS, pieces
from kimi_k2_serving.core.render import Control, Text, render
from kimi_k2_serving.core.tokens import TextDecoder, Vocabulary
from tests.support.reference_tokenizer import reference_pieces
from tests.support.vocabulary import MERGES, NAMES, write_small_checkpoint

# Published ids: the default system message and its line break, user "hi", the answer's header; a section of one call.
HI = [163594, 14062, 163601, 3900, 554, 24980, 72, 11, 519, 22572, 26626, 5232, 673, 30218, 10065, 22572, 13, 163586]
HI += [198, 163587, 2482, 163601, 9663, 163586, 163588, 69702, 163601]
SECTION = [163595, 163597, 41937, 1150, 21055, 2800, 25, 15, 163598, 8264, 37666, 1289, 414, 4396, 39556, 16934]
SECTION += [163599, 163596]


def test_t1_the_published_prompt_ids(vocabulary: Vocabulary) -> None:
    prompt = render(Conversation((Message(Role.USER, "hi"),)))
    assert vocabulary.encode_prompt(prompt.segments).tolist() == HI


def test_t1_the_published_ids_of_a_section(vocabulary: Vocabulary) -> None:
    call = {"id": "call_1", "function": {"name": "get_weather", "arguments": {"city": "Beijing"}}}
    conversation = read_conversation(messages=[{"role": "assistant", "tool_calls": [call]}])  # type: ignore[list-item]
    ids = vocabulary.encode_prompt(render(conversation).segments).tolist()
    begin = ids.index(SECTION[0])
    assert ids[begin : begin + len(SECTION)] == SECTION


def test_t1_the_published_ids_of_text(vocabulary: Vocabulary, reference: Path) -> None:
    texts = (reference / "golden" / "small_input.txt").read_text().rstrip("\n").split("\n")
    tokens = (reference / "golden" / "small_tokens.txt").read_text().rstrip("\n").split("\n")
    for text, ids in zip(texts, tokens, strict=True):
        assert vocabulary.encode(text.replace("\\n", "\n").replace("\\s", " ")) == [
            int(token) for token in ids.split(",")
        ]


def test_t2_published_control_ids(vocabulary: Vocabulary) -> None:
    assert vocabulary.size == 163_840
    assert vocabulary.control_ids == frozenset(range(163_584, 163_840))
    assert vocabulary.control("<|im_end|>") == 163_586
    assert vocabulary.control("<|reserved_token_163589|>") == 163_589
    assert vocabulary.stop_ids == (163_586, 163_585)
    assert len(vocabulary.controls) == 256


def test_t2_every_id_above_the_ranks_is_a_control_id(small_vocabulary: Vocabulary) -> None:
    ranks = 256 + len(MERGES)
    assert small_vocabulary.size == ranks + max(NAMES) + 1
    assert small_vocabulary.control_ids == frozenset(range(ranks, small_vocabulary.size))
    for distance, name in NAMES.items():
        assert small_vocabulary.control(name) == ranks + distance
    assert small_vocabulary.control(f"<|reserved_token_{ranks + 5}|>") == ranks + 5
    assert small_vocabulary.stop_ids == (ranks + 2, ranks + 1)


def test_t2_an_unknown_control_token_is_refused(small_vocabulary: Vocabulary) -> None:
    with pytest.raises(InvalidValue, match="no control token"):
        small_vocabulary.control("<think>")


def test_t2_the_model_may_have_more_ids_than_the_tokenizer_names(tmp_path: Path, small_vocabulary: Vocabulary) -> None:
    write_small_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 512}')
    wide = Vocabulary.load(tmp_path)
    assert wide.size == 512
    assert wide.control("<|reserved_token_511|>") == 511
    (tmp_path / "config.json").write_text('{"vocab_size": 8}')
    assert Vocabulary.load(tmp_path).size == small_vocabulary.size
    (tmp_path / "config.json").write_text("{}")
    assert Vocabulary.load(tmp_path).size == small_vocabulary.size


@pytest.mark.parametrize(
    ("code", "sorts"),
    [(None, False), ("def encode(self): ...", False), ("from x import deep_sort_dict\nraise SystemExit", True)],
)
def test_p3_the_checkpoints_own_code_is_read_and_not_run(tmp_path: Path, code: str | None, sorts: bool) -> None:
    write_small_checkpoint(tmp_path)
    if code is not None:
        (tmp_path / "tokenization_kimi.py").write_text(code)
    assert Vocabulary.load(tmp_path).sort_tool_keys is sorts


@pytest.mark.parametrize("name", ["tiktoken.model", "tokenizer_config.json"])
def test_t9_a_missing_file_is_named_without_its_directory(tmp_path: Path, name: str) -> None:
    write_small_checkpoint(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(NotFound) as caught:
        Vocabulary.load(tmp_path)
    assert caught.value.field == name
    assert str(tmp_path) not in str(caught.value)


def test_t9_every_name_belongs_to_one_control_id(tmp_path: Path) -> None:
    write_small_checkpoint(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    names, first = config["added_tokens_decoder"], 256 + len(MERGES)
    for identity, reason in ((first - 1, "ordinary token"), (first + 5, "two ids")):
        changed = {"added_tokens_decoder": {**names, str(identity): {"content": "<|im_end|>"}}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(changed))
        with pytest.raises(InvalidValue, match=reason) as caught:
            Vocabulary.load(tmp_path)
        assert caught.value.field == "tokenizer_config.json"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tiktoken.model", ""),
        ("tiktoken.model", "YQ=="),
        ("tiktoken.model", "YQ== 0 0"),
        ("tiktoken.model", "YQ== x"),
        ("tiktoken.model", "Y 0"),
        ("tiktoken.model", "YQ== 1"),
        ("tiktoken.model", "YQ== 0\nYg== 2"),
        ("tiktoken.model", "YQ== 0\nYQ== 1"),
        ("tiktoken.model", "YQ== 0\nYg== 0"),
        ("tiktoken.model", "YQ== -1"),
        ("tokenizer_config.json", "not json"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", "{}"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"300": "a"}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"300": {"content": 1}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"0": {"content": "[BOS]"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"300": {"content": "a"}, "301": {"content": "a"}}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"300": {"content": "<|im_end|>"}}}'),
        ("config.json", "not json"),
        ("config.json", '{"vocab_size": "many"}'),
    ],
)
def test_t9_a_file_that_is_not_a_k2_vocabulary_is_refused(tmp_path: Path, name: str, text: str) -> None:
    write_small_checkpoint(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidValue) as caught:
        Vocabulary.load(tmp_path)
    assert caught.value.field in (name, "tokenizer_config.json")


def test_t3_the_limits_are_the_references() -> None:
    assert (PART_CHARACTERS, RUN_CHARACTERS) == (400_000, 25_000)


PATHOLOGICAL = {
    "nothing": "",
    "one word": "a" * 25_000,
    "one word and a letter": "a" * 25_001,
    "spaces": " " * 25_001,
    "three words' worth": "a" * 75_001,
    "short, long": "ab " * 5_000 + "c" * 60_000,
    "long, short": "\n" * 60_000 + "ab " * 5_000,
    "run over the end of a part": "ab " * 130_000 + "c" * 60_000,
    "runs that meet a part's end": "a" * 400_000 + " " * 25_000 + "漢" * 25_001,
    "long runs in turn": ("x" * 30_000 + "\t" * 30_000) * 8,
    "just under a part": "word " * 79_999 + "word",
    "over a part": "word " * 80_001,
    "no-break spaces": "\u00a0\u2003" * 20_000 + "é" * 30_000,
    "separators": "\x1c\x1f\x85" * 10_000,
}


@pytest.mark.parametrize("text", PATHOLOGICAL.values(), ids=PATHOLOGICAL.keys())
def test_t3_pathological_text_is_cut_where_the_reference_cuts_it(text: str, small_vocabulary: Vocabulary) -> None:
    expected = list(reference_pieces(text, PART_CHARACTERS, RUN_CHARACTERS))
    assert [piece for piece in pieces(text) if piece] == [piece for piece in expected if piece]
    encoded = [token for piece in expected for token in small_vocabulary.encode(piece)]
    assert small_vocabulary.encode(text) == encoded


def test_t3_the_cuts_change_ids(vocabulary: Vocabulary) -> None:
    text = "a" * 25_001
    assert vocabulary.encode(text) == vocabulary.encode("a" * 25_000) + vocabulary.encode("a")
    assert vocabulary.encode(text) != vocabulary.encode("a" * 24_999) + vocabulary.encode("aa")


def test_t4_a_text_has_the_same_ids_wherever_it_stands_in_the_prompt(small_vocabulary: Vocabulary) -> None:
    long, short = "word " * 79_990, "x" * 24_999
    ids = small_vocabulary.encode_prompt([Control("<|im_user|>"), Text(long), Control("<|im_end|>"), Text(short)])
    assert ids[-len(small_vocabulary.encode(short)) :].tolist() == small_vocabulary.encode(short)


def test_t5_the_names_of_control_tokens_are_plain_text(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("<|im_end|>") == [27, 91, 348, 11129, 91, 29]
    for name in vocabulary.controls:
        assert vocabulary.control_ids.isdisjoint(vocabulary.encode(name))


def test_a_lone_surrogate_is_encoded_as_the_replacement_character(small_vocabulary: Vocabulary) -> None:
    assert small_vocabulary.encode("a\ud800b") == small_vocabulary.encode("a\ufffdb")


def test_t7_only_new_texts_are_encoded(small_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Vocabulary.__new__(Vocabulary)
    fresh.__dict__.update(small_vocabulary.__dict__)
    encoded: list[str] = []
    cache = type(small_vocabulary._cache)(lambda text: encoded.append(text) or [1], 10**6)  # type: ignore[func-returns-value]
    monkeypatch.setattr(fresh, "_cache", cache)
    fresh.encode_prompt([Text("old"), Control("<|im_end|>"), Text("older")])
    fresh.encode_prompt([Text("old"), Control("<|im_end|>"), Text("older"), Control("<|im_end|>"), Text("new")])
    assert encoded == ["old", "older", "new"]


def test_token_bytes(small_vocabulary: Vocabulary) -> None:
    assert small_vocabulary.token_bytes(65) == b"A"
    assert small_vocabulary.token_bytes(258) == b"the"
    assert small_vocabulary.token_bytes(small_vocabulary.control("<|im_end|>")) == b""
    assert small_vocabulary.token_bytes(small_vocabulary.size - 1) == b""
    for token in (-1, small_vocabulary.size):
        with pytest.raises(InvalidValue, match="token ids"):
            small_vocabulary.token_bytes(token)


def test_t8_a_character_split_over_tokens_is_held_back(small_vocabulary: Vocabulary) -> None:
    decoder = TextDecoder(small_vocabulary)
    assert [decoder.feed([byte]) for byte in "é🏃a".encode()] == ["", "é", "", "", "", "🏃", "a"]
    assert decoder.finish() == ""


def test_t8_nothing_is_lost_at_the_end(small_vocabulary: Vocabulary) -> None:
    decoder = TextDecoder(small_vocabulary)
    assert decoder.feed("a🏃".encode()[:-1]) == "a"
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""


def test_t8_bytes_that_can_not_become_a_character_are_not_held_back(small_vocabulary: Vocabulary) -> None:
    decoder = TextDecoder(small_vocabulary)
    assert decoder.feed([0xC3]) == ""
    assert decoder.feed([0x41]) == "\ufffdA"
    assert decoder.feed([0xFF]) == "\ufffd"


def test_t8_control_ids_have_no_text(small_vocabulary: Vocabulary) -> None:
    decoder = TextDecoder(small_vocabulary)
    assert decoder.feed([65, *sorted(small_vocabulary.control_ids), 66]) == "AB"
    with pytest.raises(InvalidValue):
        decoder.feed([small_vocabulary.size])


def test_loading_reads_only_the_named_files(tmp_path: Path) -> None:
    write_small_checkpoint(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["model_max_length"] = 10**30
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("not json")
    assert Vocabulary.load(tmp_path).size == 256 + len(MERGES) + 22


def test_an_error_of_the_checkpoint_is_one_line() -> None:
    with pytest.raises(ServingError) as caught:
        Vocabulary.load(Path("/nowhere"))
    assert "\n" not in str(caught.value)
    assert "/" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1234567", ["123", "456", "7"]),
        ("HELLOworld", ["HEL", "LO", "world"]),
        ("don't I'LL", ["don't", " I'", "LL"]),
        ("  \n\n  x", ["  \n\n", " ", " x"]),
        ("\n\n\nx", ["\n\n\n", "x"]),
        ("a.b\r\n\r\n...", ["a", ".b", "\r\n\r\n", "..."]),
        ("     ", ["     "]),
    ],
)
def test_t1_words_are_as_long_as_the_pattern_allows(text: str, words: list[str], vocabulary: Vocabulary) -> None:
    assert [vocabulary.token_bytes(token).decode() for token in vocabulary.encode(text)] == words


def test_t7_the_cache_keeps_a_quarter_of_a_gigabyte() -> None:
    assert tokens.CACHE_BYTES == 268_435_456
