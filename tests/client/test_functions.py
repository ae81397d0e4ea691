"""Python functions become tools: their schemas, their calls, and the loop around them."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest
from fake_triton import Script, Step, script
from peers import Peer

from kimi_k2_client import ChatAnswer, ToolCall, ToolError, ToolRun, TooManyRounds
from kimi_k2_client.functions import FunctionTool, call_tool, tools_of


class Unit(enum.Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


class Place(pydantic.BaseModel):
    city: str
    country: Country


class Country(pydantic.BaseModel):
    code: str


class Range(TypedDict):
    low: int
    high: int


def get_weather(
    city: str, unit: Literal["celsius", "fahrenheit"] = "celsius", days: int | None = None
) -> dict[str, Any]:
    """The weather in a city,
    now or later.

    It is made up.

    Args:
        city: the city's name: in English
        unit (str): of the temperature
    """
    return {"city": city, "unit": unit, "days": days}


def test_a_signature_and_a_docstring_make_a_declaration() -> None:
    assert FunctionTool.of(get_weather).declaration == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city, now or later.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "the city's name: in English"},
                    "unit": {"enum": ["celsius", "fahrenheit"], "description": "of the temperature"},
                    "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (float, {"type": "number"}),
        (Any, {}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (list, {"type": "array"}),
        (set[str], {"type": "array", "items": {"type": "string"}}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "items": False,
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (dict, {"type": "object"}),
        (Unit, {"enum": ["celsius", "kelvin"]}),
        (Annotated[int, "a number"], {"type": "integer"}),
        (
            Range,
            {
                "type": "object",
                "properties": {"low": {"type": "integer"}, "high": {"type": "integer"}},
                "required": ["high", "low"],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_annotations_become_schemas(annotation: Any, schema: dict[str, Any]) -> None:
    def tool(value: Any) -> None: ...

    tool.__annotations__["value"] = annotation
    declared = FunctionTool.of(tool).declaration["function"]["parameters"]
    assert declared["properties"]["value"] == schema


def test_the_definitions_of_models_are_at_the_root_where_their_references_point() -> None:
    def tool(places: list[Place]) -> None: ...

    parameters = FunctionTool.of(tool).declaration["function"]["parameters"]
    assert parameters["$defs"]["Country"]["properties"]["code"]["type"] == "string"
    item = parameters["properties"]["places"]["items"]
    assert item["properties"]["country"] == {"$ref": "#/$defs/Country"}
    assert "$defs" not in item


def test_what_json_can_not_express_is_refused_with_the_parameter_s_name() -> None:
    def bytes_in(data: bytes) -> None: ...

    def any_number(*values: int) -> None: ...

    def keyed(values: dict[int, str]) -> None: ...

    for function, says in ((bytes_in, "parameter data"), (any_number, "parameter values"), (keyed, "keys must be str")):
        with pytest.raises(TypeError, match=says):
            FunctionTool.of(function)


def call(function: Callable[..., Any], arguments: str, name: str = "") -> str:
    message = call_tool(tools_of([function], asynchronous=False), ToolCall("c1", name or function.__name__, arguments))
    assert (message["role"], message["tool_call_id"]) == ("tool", "c1")
    return str(message["content"])


def test_arguments_arrive_as_the_annotated_classes() -> None:
    seen: list[Any] = []

    def tool(place: Place, unit: Unit, tags: set[str]) -> str:
        seen.extend((place, unit, tags))
        return "done"

    arguments = {"place": {"city": "Bern", "country": {"code": "CH"}}, "unit": "kelvin", "tags": ["a"]}
    assert call(tool, json.dumps(arguments)) == "done"
    assert seen == [Place(city="Bern", country=Country(code="CH")), Unit.KELVIN, {"a"}]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "missing a required argument: 'city'"),
        ('{"city": "Bern", "moon": 1}', "unexpected keyword argument 'moon'"),
    ],
)
def test_arguments_that_do_not_fit_are_reported_to_the_model(arguments: str, says: str) -> None:
    assert says in json.loads(call(get_weather, arguments))["error"]


def test_a_tool_that_does_not_exist_is_reported_to_the_model() -> None:
    assert "there is no tool other; there are: get_weather" in call(get_weather, "{}", name="other")


def test_only_a_tool_error_is_told_to_the_model() -> None:
    def polite() -> None:
        raise ToolError("no such city")

    def broken() -> None:
        raise ZeroDivisionError

    assert json.loads(call(polite, "")) == {"error": "no such city"}
    with pytest.raises(ZeroDivisionError):
        call(broken, "")


def asking(*calls: tuple[str, str]) -> list[Step]:
    whole = [
        {"id": f"functions.{name}:{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
    return [{"text_output": "", "tool_calls": json.dumps(whole), "finish_reason": "tool_calls"}]


DONE: list[Step] = [{"text_output": "It is 3 degrees.", "finish_reason": "stop"}]


def messages(wanted: Script, at: int) -> list[dict[str, Any]]:
    text = wanted.asked[at]["messages"]
    found = json.loads(text[0] if isinstance(text, list) else text)
    assert isinstance(found, list)
    return found


def test_calls_are_run_until_the_model_calls_nothing(peer: Peer) -> None:
    wanted = script(asking(("get_weather", '{"city": "Bern"}'), ("get_weather", '{"city": "Rom"}')), DONE)
    seen: list[ChatAnswer] = []
    run = peer.call(wanted, "run_tools", "weather?", [get_weather], tool_choice="required", on_answer=seen.append)
    assert isinstance(run, ToolRun)
    assert (run.answer.content, run.rounds, len(seen)) == ("It is 3 degrees.", 1, 2)
    assert [message["role"] for message in run.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert messages(wanted, 1) == run.messages[:-1]
    assert json.loads(run.messages[2]["content"]) == {"city": "Bern", "unit": "celsius", "days": None}
    assert "tool_choice" in wanted.asked[0]
    assert "tool_choice" not in wanted.asked[1], "a required call would be required for ever"


def test_rounds_are_capped_and_the_conversation_is_kept(peer: Peer) -> None:
    wanted = script(asking(("get_weather", '{"city": "Bern"}')))
    with pytest.raises(TooManyRounds) as caught:
        peer.call(wanted, "run_tools", "weather?", [get_weather], max_rounds=3)
    assert len(wanted.asked) == 3
    assert [message["role"] for message in caught.value.messages] == ["user", *["assistant", "tool"] * 3]


def test_async_functions_are_awaited_by_the_asyncio_client_and_refused_by_the_blocking_one(peer: Peer) -> None:
    async def get_weather(city: str) -> str:
        return f"rain in {city}"

    wanted = script(asking(("get_weather", '{"city": "Bern"}')), DONE)
    if not peer.is_async:
        with pytest.raises(TypeError, match="use AsyncClient"):
            peer.call(wanted, "run_tools", "weather?", [get_weather])
        return
    run = peer.call(wanted, "run_tools", "weather?", [get_weather])
    assert run.messages[2]["content"] == "rain in Bern"


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="two tools are called get_weather"):
        tools_of([get_weather, get_weather], asynchronous=False)
