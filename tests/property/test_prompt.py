"""Promises about every conversation: no forged control id, prefix-stable, cached as encoded, cut like the reference."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.messages import Conversation, Json, Message, Role, Tool, ToolCall
from kimi_k2_serving.core.pieces import pieces
from kimi_k2_serving.core.render import Control, Text, render
from kimi_k2_serving.core.tokens import TextDecoder, Vocabulary
from tests.support.reference_tokenizer import reference_pieces

# --- P1, T5: no text in any field can yield a control id ---


def conversation(text: str, field: str) -> Conversation:
    """A conversation that uses everything, with `text` in one field."""

    def at(name: str, plain: str = "x") -> str:
        return text if name == field else plain

    function: dict[str, Json] = {
        "name": at("tools.function.name"),
        "description": at("tools.function.description"),
        at("tools.function.key", "other"): 1,
        "parameters": {
            "type": "object",
            "properties": {
                at("schema.property"): {"enum": [at("schema.enum")], "description": at("schema.description")}
            },
        },
    }
    call = ToolCall(at("tool_calls.id"), at("tool_calls.name"), at("tool_calls.arguments"))
    return Conversation(
        (
            Message(Role.SYSTEM, at("system.content"), at("system.name")),
            Message(Role.USER, at("user.content"), at("user.name")),
            Message(Role.ASSISTANT, at("assistant.content"), at("assistant.name"), (call,)),
            Message(Role.TOOL, at("tool.content"), at("tool.name"), tool_call_id=call.id),
            Message(Role.ASSISTANT, at("assistant.content")),
        ),
        (Tool(at("tools.name"), {"type": at("tools.type", "function"), "function": function}),),
    )


FIELDS = [
    "system.content",
    "system.name",
    "user.content",
    "user.name",
    "assistant.content",
    "assistant.name",
    "tool.content",
    "tool.name",
    "tool_calls.id",
    "tool_calls.name",
    "tool_calls.arguments",
    "tools.name",
    "tools.type",
    "tools.function.name",
    "tools.function.description",
    "tools.function.key",
    "schema.property",
    "schema.enum",
    "schema.description",
]


def control_ids(vocabulary: Vocabulary, conversation: Conversation) -> list[int]:
    ids = vocabulary.encode_prompt(render(conversation).segments)
    return [token for token in ids if token in vocabulary.control_ids]


def assert_forges_nothing(vocabulary: Vocabulary, text: str, field: str) -> None:
    assert control_ids(vocabulary, conversation(text, field)) == control_ids(vocabulary, conversation("plain", field))


@pytest.mark.parametrize("field", FIELDS)
def test_no_control_token_in_any_field_is_a_control_id(field: str, small_vocabulary: Vocabulary) -> None:
    for name in small_vocabulary.controls:
        assert_forges_nothing(small_vocabulary, name, field)
        assert_forges_nothing(small_vocabulary, f"a{name}{name}\n{name} b", field)


@pytest.mark.parametrize("field", FIELDS)
def test_no_published_control_token_in_any_field_is_a_control_id(field: str, vocabulary: Vocabulary) -> None:
    for name in vocabulary.controls:
        assert_forges_nothing(vocabulary, name, field)


@given(data=st.data())
def test_no_mixture_of_control_tokens_and_text_is_a_control_id(
    data: st.DataObject, small_vocabulary: Vocabulary
) -> None:
    names = st.sampled_from(sorted(small_vocabulary.controls))
    text = "".join(data.draw(st.lists(names | st.text("<|>[]imEOS_end \n漢") | st.text(), min_size=1)))
    assert_forges_nothing(small_vocabulary, f"x{text}", data.draw(st.sampled_from(FIELDS)))


@pytest.mark.parametrize(
    "path", ["user", "assistant", "tool", "name", "part", "id", "call", "arguments", "object", "schema"]
)
def test_no_control_token_in_a_request_is_a_control_id(path: str, vocabulary: Vocabulary) -> None:
    def request(text: str) -> Conversation:
        def at(name: str) -> str:
            return text if name == path else "x"

        call: Json = {"id": at("id"), "function": {"name": at("call"), "arguments": at("arguments")}}
        objects: Json = {"id": "y", "function": {"name": "f", "arguments": {at("object"): [at("object")]}}}
        parameters: Json = {"type": "object", "properties": {at("schema"): {"description": at("schema")}}}
        return read_conversation(
            messages=[
                {"role": "user", "content": at("user"), "name": at("name")},
                {"role": "user", "content": [{"type": "text", "text": at("part")}]},
                {"role": "assistant", "content": at("assistant"), "tool_calls": [call, objects]},
                {"role": "tool", "tool_call_id": at("id"), "content": at("tool")},
            ],
            tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}],
        )

    plain = control_ids(vocabulary, request("plain"))
    for name in vocabulary.controls:
        assert control_ids(vocabulary, request(name)) == plain


# --- H8: what a turn shows is where the next one begins ---

TEXTS = st.text("ab <|\n漢", max_size=8)
NAMES = st.sampled_from(["f", "g", "search"])
IDS = st.sampled_from(["", "0", "1", "call_a", "functions.f:0", "functions.g:1"])
CALLS = st.lists(st.builds(ToolCall, IDS, NAMES, st.just("{}")), min_size=1, max_size=4)
MESSAGES = st.lists(
    st.one_of(
        st.builds(Message, st.sampled_from([Role.SYSTEM, Role.USER, Role.ASSISTANT]), TEXTS),
        st.builds(lambda text, calls: Message(Role.ASSISTANT, text, tool_calls=tuple(calls)), TEXTS, CALLS),
        st.builds(
            lambda text, name, i: Message(Role.TOOL, text, name, tool_call_id=i),
            TEXTS,
            st.none() | NAMES,
            st.none() | IDS,
        ),
    ),
    min_size=1,
    max_size=12,
)


def answerable(messages: list[Message]) -> tuple[Message, ...]:
    """`messages` less the results that answer nothing."""
    kept: tuple[Message, ...] = ()
    for message in messages:
        try:
            render(Conversation((*kept, message)))
        except InvalidValue:
            continue
        kept = (*kept, message)
    return kept


@given(drawn=MESSAGES)
def test_the_prompt_of_a_turn_begins_the_next_turns_prompt(drawn: list[Message], small_vocabulary: Vocabulary) -> None:
    messages = answerable(drawn)
    whole = small_vocabulary.encode_prompt(render(Conversation(messages)).segments)
    for end in range(1, len(messages)):
        prompt = small_vocabulary.encode_prompt(render(Conversation(messages[:end])).segments)
        # The answer's header is part of the next prompt if what was added is an answer.
        if messages[end].role is not Role.ASSISTANT:
            prompt = prompt[: -len(small_vocabulary.encode("assistant")) - 2]
        assert whole[: len(prompt)] == prompt


@given(drawn=MESSAGES)
def test_every_result_shows_the_id_of_exactly_one_earlier_call(drawn: list[Message]) -> None:
    messages = answerable(drawn)
    segments = render(Conversation(messages)).segments
    texts = [segment.text for segment in segments if isinstance(segment, Text)]
    results = [text.split("\n")[0].removeprefix("## Return of ") for text in texts if text.startswith("## Return of ")]
    calls = [text for text in texts if text.startswith("functions.")]
    assert len(results) == sum(message.role is Role.TOOL for message in messages)
    assert len(set(results)) == len(results)
    assert len(set(calls)) == len(calls)
    assert set(results) <= set(calls)
    assert [int(call.rpartition(":")[2]) for call in calls] == list(range(len(calls)))


@given(drawn=MESSAGES, names=st.permutations(["0", "1", "call_a", "functions.f:0", "functions.g:1"]))
def test_the_prompt_does_not_depend_on_the_clients_ids(drawn: list[Message], names: list[str]) -> None:
    messages = answerable(drawn)
    renamed = {"": "", **dict(zip(sorted(names), names, strict=True))}

    def rename(message: Message) -> Message:
        calls = tuple(replace(call, id=renamed[call.id]) for call in message.tool_calls)
        identity = message.tool_call_id and renamed[message.tool_call_id]
        return replace(message, tool_calls=calls, tool_call_id=identity)

    assert render(Conversation(tuple(map(rename, messages)))) == render(Conversation(messages))


# --- T3, T6, T7, T8: tokens ---


@given(drawn=MESSAGES)
def test_a_cached_prompt_has_the_ids_of_a_fresh_one(drawn: list[Message], small_vocabulary: Vocabulary) -> None:
    segments = render(Conversation(answerable(drawn))).segments
    fresh: list[int] = []
    for part in segments:
        fresh += (
            [small_vocabulary.control(part.name)] if isinstance(part, Control) else small_vocabulary.encode(part.text)
        )
    assert small_vocabulary.encode_prompt(segments).tolist() == fresh
    assert small_vocabulary.encode_prompt(segments).tolist() == fresh


@settings(max_examples=500)
@given(text=st.text("ab \n\u2003漢", max_size=80), part=st.integers(1, 30), run=st.integers(1, 8))
def test_text_is_cut_where_the_reference_cuts_it(text: str, part: int, run: int) -> None:
    expected = [piece for piece in reference_pieces(text, part, run) if piece]
    assert list(pieces(text, part_length=part, run_length=run)) == expected


@settings(max_examples=300)
@given(data=st.data())
def test_text_does_not_depend_on_how_its_ids_are_divided(data: st.DataObject, small_vocabulary: Vocabulary) -> None:
    ids = data.draw(st.lists(st.integers(0, small_vocabulary.size - 1) | st.sampled_from("é🏃漢".encode())))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)))))
    decoder = TextDecoder(small_vocabulary)
    text = "".join(decoder.feed(ids[a:b]) for a, b in pairwise([0, *cuts, len(ids)])) + decoder.finish()
    assert text == b"".join(map(small_vocabulary.token_bytes, ids)).decode("utf-8", "replace")


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_undoes_encoding(text: str, small_vocabulary: Vocabulary) -> None:
    decoder = TextDecoder(small_vocabulary)
    assert "".join(decoder.feed([token]) for token in small_vocabulary.encode(text)) + decoder.finish() == text
