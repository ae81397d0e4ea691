"""The conversations that `verify` sends, with the answer that a correct model and server give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


def tool(name: str, description: str, **properties: Json) -> Json:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = tool(
    "get_weather",
    "The weather in a city now.",
    city={"type": "string", "description": "the city's name"},
    unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
)
MAIL = tool(
    "send_mail",
    "Send an e-mail.",
    to={"type": "array", "items": {"type": "string"}, "minItems": 1},
    subject={"type": "string"},
    urgent={"type": "boolean"},
)
CLOCK = tool("get_time", "The time in a time zone.", zone={"type": "string", "enum": ["UTC", "CET", "JST"]})
CONVERT = tool(
    "convert_money",
    "Convert an amount of money.",
    amount={"type": "number", "minimum": 0},
    source={"type": "string", "pattern": "^[A-Z]{3}$"},
    target={"type": "string", "pattern": "^[A-Z]{3}$"},
)
ALL = [WEATHER, MAIL, CLOCK, CONVERT]


@dataclass(frozen=True, slots=True)
class TriggerCase:
    """`expects`: the name of the tool that the answer should call, None for an answer without a call."""

    text: str
    tools: list[Json]
    expects: str | None
    system: str = ""

    def messages(self) -> list[Json]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.text}]


CITIES = ("Lisbon", "Zürich", "Nairobi")
CALLS = (
    *(TriggerCase(f"What is the weather in {city} now, in celsius?", [WEATHER], "get_weather") for city in CITIES),
    *(TriggerCase(f"Is it raining in {city}? Use fahrenheit.", ALL, "get_weather") for city in CITIES),
    TriggerCase("What time is it in Japan right now?", [CLOCK], "get_time"),
    TriggerCase("Tell me the current time in UTC.", ALL, "get_time"),
    TriggerCase("Convert 250 euros to US dollars.", [CONVERT], "convert_money"),
    TriggerCase("How many yen are 19.99 Swiss francs today?", ALL, "convert_money"),
    TriggerCase("Mail ada@example.org with the subject Lunch. It is not urgent.", [MAIL], "send_mail"),
    TriggerCase("Send bo@example.org an urgent e-mail, subject: Server down.", ALL, "send_mail"),
)
NO_CALLS = (
    TriggerCase("Write a haiku about autumn.", [WEATHER], None),
    TriggerCase("What is 7 times 8?", [CLOCK], None),
    TriggerCase("Explain in one sentence what a compiler does.", ALL, None),
    TriggerCase("Translate 'good morning' to French.", [MAIL], None),
    TriggerCase("Who wrote Don Quixote?", ALL, None),
    TriggerCase("Give me two synonyms of 'fast'.", [CONVERT], None),
    TriggerCase("Hello! How are you?", ALL, None, "You are a friendly assistant."),
    TriggerCase("Thank you, that was all.", ALL, None),
    TriggerCase("Name a prime number above ten.", [WEATHER, CLOCK], None),
    TriggerCase("Is a whale a fish?", ALL, None, "EndpointAnswer in one word."),
    TriggerCase("Spell 'necessary'.", [MAIL, CONVERT], None),
    TriggerCase("What does HTTP stand for?", ALL, None),
)
TRIGGERS = (*CALLS, *NO_CALLS)

FORMAT: Json = {
    "type": "json_schema",
    "json_schema": {
        "name": "ticket",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "kind": {"enum": ["bug", "question"]},
                "open": {"type": "boolean"},
                "level": {"type": "integer", "minimum": 1, "maximum": 5},
            },
            "required": ["kind", "open", "level"],
            "additionalProperties": False,
        },
    },
}
TICKET = "Describe this as a ticket: the page does not load. Level 3, it is still open."

# An assistant turn that called a tool, its result, and a question that needs a further call.
EARLIER: list[Json] = [
    {"role": "user", "content": "What is the weather in Lisbon now, in celsius?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "functions.get_weather:0",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Lisbon", "unit": "celsius"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "functions.get_weather:0", "content": '{"temperature": 21}'},
    {"role": "assistant", "content": "It is 21 degrees in Lisbon."},
    {"role": "user", "content": "And the weather in Zürich now, in celsius?"},
]
DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."
# The tokens that no answer may contain as text.
MARKERS = (
    "<|im_end|>",
    "<|im_user|>",
    "<|im_assistant|>",
    "<|im_system|>",
    "<|im_middle|>",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
CODE = "73914"


def recall(sentences: int) -> list[Json]:
    """A question whose answer is in the middle of a long text."""
    lines = [f"Page {number}: the garden has {number % 7 + 2} benches and a fountain." for number in range(sentences)]
    lines.insert(sentences // 2, f"The code of the blue door is {CODE}.")
    text = " ".join(lines)
    return [{"role": "user", "content": f"{text}\n\nWhat is the code of the blue door? Answer with the code only."}]
