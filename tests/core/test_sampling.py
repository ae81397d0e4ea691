"""core/sampling.py: names, types and ranges of sampling parameters, and the maximum length of an answer."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from kimi_k2_serving.core import limits
from kimi_k2_serving.core.errors import (
    ContextLengthExceeded,
    InvalidRequest,
    InvalidType,
    InvalidValue,
    LimitExceeded,
    UnknownField,
    Unsupported,
)
from kimi_k2_serving.core.sampling import (
    ALIASES,
    FIELDS,
    SEED_MAXIMUM,
    TOKENS_MAXIMUM,
    Room,
    fit_to_engine,
    read_parameters,
    spelled_out,
)

# SGLang's name of each parameter, written down a second time.
TARGETS = {
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
    "seed": "sampling_seed",
    "ignore_eos": "ignore_eos",
    "stop": "stop",
    "stop_token_ids": "stop_token_ids",
    "logit_bias": "logit_bias",
    "skip_special_tokens": "skip_special_tokens",
    "json_schema": "json_schema",
    "regex": "regex",
    "ebnf": "ebnf",
    "structural_tag": "structural_tag",
}
VALUES: dict[str, Any] = {
    "max_tokens": 5,
    "min_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 40,
    "min_p": 0.5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "repetition_penalty": 0.5,
    "seed": 7,
    "ignore_eos": True,
    "stop": ["END"],
    "stop_token_ids": [5],
    "logit_bias": {"5": 1.0},
    "skip_special_tokens": False,
    "json_schema": "{}",
    "regex": "a*",
    "ebnf": "root ::= [a]",
    "structural_tag": "{}",
}


def refused(name: str, value: Any, kind: type[InvalidRequest]) -> str:
    """The error's message. Checks that its field is the name that the client wrote."""
    with pytest.raises(kind) as caught:
        read_parameters({name: value}, prefix="sampling_parameters.")
    assert type(caught.value) is kind
    assert caught.value.field.startswith(f"sampling_parameters.{name}")
    return caught.value.detail


@pytest.mark.parametrize("name", TARGETS)
def test_every_parameter_has_the_engines_name(name: str) -> None:
    assert read_parameters({name: VALUES[name]}) == {TARGETS[name]: VALUES[name]}


def test_the_table_has_exactly_the_tested_parameters() -> None:
    assert set(FIELDS) == set(TARGETS) == set(VALUES)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("max_new_tokens", "max_tokens"),
        ("max_completion_tokens", "max_tokens"),
        ("min_new_tokens", "min_tokens"),
        ("min_length", "min_tokens"),
        ("sampling_seed", "seed"),
        ("random_seed", "seed"),
        ("stop_words", "stop"),
    ],
)
def test_other_clients_names_mean_the_same(alias: str, name: str) -> None:
    assert read_parameters({alias: VALUES[name]}) == read_parameters({name: VALUES[name]})
    assert ALIASES[alias] == name


def test_an_unknown_parameter_is_refused_and_the_known_ones_are_named() -> None:
    detail = refused("temprature", 1, UnknownField)
    for name in TARGETS:
        assert name in detail


def test_null_means_not_set() -> None:
    assert read_parameters(dict.fromkeys(TARGETS)) == {}
    assert read_parameters({"max_tokens": 1, "max_new_tokens": None}) == {"max_new_tokens": 1}


def test_one_parameter_under_two_names_has_one_value() -> None:
    """Some gateways send both max_tokens and max_completion_tokens."""
    assert read_parameters({"max_tokens": 1, "max_completion_tokens": 1}) == {"max_new_tokens": 1}
    with pytest.raises(InvalidValue, match="under two names with different values") as caught:
        read_parameters({"max_tokens": 1, "max_new_tokens": 2})
    assert caught.value.field == "max_new_tokens"


@pytest.mark.parametrize(
    ("name", "least", "most", "too_low", "too_high"),
    [
        ("max_tokens", 1, TOKENS_MAXIMUM, 0, 2**31),
        ("min_tokens", 0, TOKENS_MAXIMUM, -1, 2**31),
        ("temperature", 0, 2, -0.001, 2.001),
        ("top_p", 1e-9, 1, 0, 1.001),
        ("top_k", -1, TOKENS_MAXIMUM, -2, 2**31),
        ("min_p", 0, 1, -0.001, 1.001),
        ("frequency_penalty", -2, 2, -2.001, 2.001),
        ("presence_penalty", -2, 2, -2.001, 2.001),
        ("repetition_penalty", 0.01, 2, 0.009, 2.001),
        ("seed", 0, SEED_MAXIMUM, -1, 2**63),
    ],
)
def test_ranges_include_their_bounds(name: str, least: float, most: float, too_low: Any, too_high: Any) -> None:
    """Nothing is clamped."""
    assert read_parameters({name: least}) == {TARGETS[name]: least}
    assert read_parameters({name: most}) == {TARGETS[name]: most}
    for value in (too_low, too_high):
        detail = refused(name, value, InvalidValue)
        assert str(value) in detail
        assert str(FIELDS[name].maximum) in detail
        assert ("more than 0 and" in detail) == (name == "top_p")
        assert ("at least " in detail) != ("more than " in detail)


@pytest.mark.parametrize("name", ["max_tokens", "seed", "top_k", "stop_token_ids"])
@pytest.mark.parametrize("wide", [2.0**64, -(2.0**63), 1e25])
def test_an_integer_beyond_64_bits_is_refused_by_the_range_of_its_field(name: str, wide: float) -> None:
    """`strict_json` reads it as a double."""
    refused(name, [wide] if name == "stop_token_ids" else wide, InvalidValue)


@pytest.mark.parametrize("name", ["json_schema", "regex", "ebnf", "structural_tag"])
def test_an_empty_grammar_is_refused(name: str) -> None:
    """SGLang would read it as no grammar and not constrain the answer."""
    assert refused(name, "", InvalidValue) == "must not be empty; leave it out"


def test_a_value_that_is_not_a_number_is_refused() -> None:
    refused("temperature", float("nan"), InvalidValue)
    refused("temperature", float("inf"), InvalidValue)
    assert refused("temperature", "1", InvalidType) == "must be a number"
    assert refused("temperature", True, InvalidType) == "must be a number"
    assert refused("max_tokens", 1.0, InvalidType) == "must be an integer"
    assert refused("max_tokens", True, InvalidType) == "must be an integer"


def test_a_number_is_a_float_and_an_integer_is_an_integer() -> None:
    assert type(read_parameters({"temperature": 1})["temperature"]) is float
    assert type(read_parameters({"top_k": 1})["top_k"]) is int


@pytest.mark.parametrize("off", [0, -1])
def test_top_k_zero_or_minus_one_means_off(off: int) -> None:
    assert read_parameters({"top_k": off}) == {"top_k": -1}


@pytest.mark.parametrize("name", ["ignore_eos", "skip_special_tokens"])
def test_flags_are_true_or_false(name: str) -> None:
    assert read_parameters({name: True}) == {name: True}
    assert read_parameters({name: False}) == {name: False}
    assert refused(name, 1, InvalidType) == "must be true or false"


def test_stop_is_a_string_or_strings() -> None:
    assert read_parameters({"stop": "END"}) == {"stop": ["END"]}
    assert read_parameters({"stop": ["a", "", "b"]}) == {"stop": ["a", "b"]}
    for nothing in ("", [], [""]):
        assert read_parameters({"stop": nothing}) == {}
    for wrong in (5, [5], ["a", None], {"a": 1}):
        assert refused("stop", wrong, InvalidType) == "must be a string or a list of strings"


def test_stop_strings_are_bounded_in_number_and_in_bytes() -> None:
    most, longest = limits.STOP_STRINGS.value, limits.STOP_BYTES.value
    assert len(read_parameters({"stop": ["a"] * most})["stop"]) == most
    assert "stop_strings" in refused("stop", ["a"] * (most + 1), LimitExceeded)
    assert read_parameters({"stop": "a" * longest}) == {"stop": ["a" * longest]}
    assert "stop_bytes" in refused("stop", ["a", "é" * (longest // 2 + 1)], LimitExceeded)


def test_stop_token_ids_are_ids() -> None:
    most = limits.STOP_TOKEN_IDS.value
    assert read_parameters({"stop_token_ids": [0, TOKENS_MAXIMUM]}) == {"stop_token_ids": [0, TOKENS_MAXIMUM]}
    assert len(read_parameters({"stop_token_ids": [1] * most})["stop_token_ids"]) == most
    assert "stop_token_ids" in refused("stop_token_ids", [1] * (most + 1), LimitExceeded)
    for value in ([-1], [TOKENS_MAXIMUM + 1]):
        refused("stop_token_ids", value, InvalidValue)
    for wrong in (5, ["5"], [True], [1.0]):
        assert refused("stop_token_ids", wrong, InvalidType) == "must be a list of token ids"


def test_a_bias_maps_ids_to_numbers() -> None:
    assert read_parameters({"logit_bias": {"007": -100, "8": 100}}) == {"logit_bias": {"7": -100.0, "8": 100.0}}
    assert refused("logit_bias", [[7, 1]], InvalidType) == "must be an object of token id to number"
    for key in ("a", "-1", "", "²"):
        refused("logit_bias", {key: 1}, InvalidValue)
    with pytest.raises(InvalidValue) as caught:
        read_parameters({"logit_bias": {"7": 100.001}})
    assert caught.value.field == "logit_bias.7"
    with pytest.raises(InvalidValue):
        read_parameters({"logit_bias": {"7": -100.001}})
    with pytest.raises(InvalidType) as wrong:
        read_parameters({"logit_bias": {"7": "1"}})
    assert wrong.value.field == "logit_bias.7"


def test_a_bias_is_bounded() -> None:
    most = limits.LOGIT_BIAS.value
    assert len(read_parameters({"logit_bias": {str(i): 1 for i in range(most)}})["logit_bias"]) == most
    assert "logit_bias" in refused("logit_bias", {str(i): 1 for i in range(most + 1)}, LimitExceeded)


@pytest.mark.parametrize("name", ["json_schema", "regex", "ebnf", "structural_tag"])
def test_a_grammar_is_bounded_text(name: str) -> None:
    assert refused(name, {}, InvalidType) == "must be a string"
    bound = limits.JSON_BYTES if name == "structural_tag" else limits.SCHEMA_BYTES
    assert read_parameters({name: "é" * (bound.value // 2)})
    assert bound.name in refused(name, "é" * (bound.value // 2) + "a", LimitExceeded)


@pytest.mark.parametrize("pair", [*itertools.combinations(("json_schema", "regex", "ebnf", "structural_tag"), 2)])
def test_one_grammar_at_a_time(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidValue, match=r"give one of json_schema, regex, ebnf, structural_tag\Z") as caught:
        read_parameters(dict.fromkeys(pair, "a"), prefix="sampling_parameters.")
    assert caught.value.field == f"sampling_parameters.{pair[1]}"


ROOM = Room(vocab_size=5000, context_length=100, prompt_tokens=93)


def test_an_answer_gets_the_part_of_the_context_that_the_prompt_leaves() -> None:
    sampling: dict[str, Any] = {}
    fit_to_engine(sampling, prompt_tokens=10, room=ROOM, field="messages")
    assert sampling == {"max_new_tokens": 90}
    sampling = {"max_new_tokens": 91}
    fit_to_engine(sampling, prompt_tokens=10, room=ROOM, field="messages")
    assert sampling == {"max_new_tokens": 90}
    sampling = {"max_new_tokens": 89, "min_new_tokens": 89}
    fit_to_engine(sampling, prompt_tokens=10, room=ROOM, field="messages")
    assert sampling == {"max_new_tokens": 89, "min_new_tokens": 89}


def test_the_longest_prompt_is_answered() -> None:
    sampling: dict[str, Any] = {}
    fit_to_engine(sampling, prompt_tokens=93, room=ROOM, field="messages")
    assert sampling == {"max_new_tokens": 7}


def test_a_longer_prompt_is_refused_with_both_numbers() -> None:
    for tokens in (94, 101):
        with pytest.raises(ContextLengthExceeded, match=f"{tokens} tokens.* at most 93.* 100") as caught:
            fit_to_engine({}, prompt_tokens=tokens, room=ROOM, field="prompt")
        assert caught.value.field == "prompt"


def test_a_context_leaves_sglang_its_reserve() -> None:
    assert Room.of_context(5000, 32768) == Room(5000, 32768, 32761)


def test_min_p_is_refused_if_it_would_kill_the_engine() -> None:
    seeded = replace(ROOM, min_p=False)
    with pytest.raises(Unsupported) as caught:
        fit_to_engine({"min_p": 0.1}, prompt_tokens=10, room=seeded, field="messages")
    assert caught.value.field == "min_p"
    fit_to_engine({"min_p": 0.0}, prompt_tokens=10, room=seeded, field="messages")


def test_min_tokens_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidValue) as caught:
        fit_to_engine({"min_new_tokens": 91}, prompt_tokens=10, room=ROOM, field="messages")
    assert caught.value.field == "min_tokens"


@pytest.mark.parametrize(
    ("name", "given", "field"),
    [
        ("stop_token_ids", [4999, 5000], "stop_token_ids"),
        ("stop_token_ids", [TOKENS_MAXIMUM], "stop_token_ids"),
        ("logit_bias", {"4999": 1, "5000": 1}, "logit_bias.5000"),
        ("logit_bias", {"9999999999": 1}, "logit_bias.9999999999"),
    ],
)
def test_an_id_outside_the_vocabulary_is_refused_with_its_field(name: str, given: Any, field: str) -> None:
    with pytest.raises(InvalidValue, match="the vocabulary ends at 4999") as caught:
        fit_to_engine(read_parameters({name: given}), prompt_tokens=10, room=ROOM, field="messages")
    assert caught.value.field == field


def test_the_last_id_of_the_vocabulary_is_accepted() -> None:
    fit_to_engine(
        read_parameters({"stop_token_ids": [0, 4999], "logit_bias": {"4999": 1}}),
        prompt_tokens=10,
        room=ROOM,
        field="messages",
    )


@pytest.mark.parametrize("key", ["1" * 5000, "-1", "+1", "1.0", "", " 1", "\u0661", "1e3", "01234567890"])
def test_a_bias_is_keyed_by_an_id_in_decimal(key: str) -> None:
    with pytest.raises(InvalidValue, match="token ids in decimal") as caught:
        read_parameters({"logit_bias": {key: 1}})
    assert caught.value.field == "logit_bias"


def test_a_token_has_one_bias() -> None:
    with pytest.raises(InvalidValue, match="token 7 is given twice"):
        read_parameters({"logit_bias": {"7": 1, "07": 2}})


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (
            {"temperature": "0.5", "max_tokens": "8", "ignore_eos": "True"},
            {"temperature": 0.5, "max_tokens": 8, "ignore_eos": True},
        ),
        ({"max_new_tokens": " 8 ", "stop": "8", "regex": "1"}, {"max_new_tokens": 8, "stop": "8", "regex": "1"}),
        (
            {"temperature": "hot", "ignore_eos": "no", "max_tokens": "1" * 33},
            {"temperature": "hot", "ignore_eos": "no", "max_tokens": "1" * 33},
        ),
        ({"best_of": 1, "use_beam_search": False}, {}),
        ({"best_of": 2, "unknown": "1"}, {"best_of": 2, "unknown": "1"}),
    ],
)
def test_numbers_and_flags_as_texts_are_read_and_all_else_is_left(given: dict[str, Any], read: dict[str, Any]) -> None:
    assert spelled_out(given) == read


def test_an_unknown_name_is_answered_with_all_that_the_caller_knows() -> None:
    with pytest.raises(UnknownField, match=r"known: n, seed$"):
        read_parameters({"x": 1}, known=("seed", "n"))
