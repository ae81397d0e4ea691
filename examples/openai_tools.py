"""A tool loop with OpenAI's SDK: the model calls, this program answers, until the model has no more calls.

python examples/openai_tools.py [URL]
"""

import json
import os
import sys

from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9000"
ROUNDS = 4
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}


def get_weather(city: str, unit: str) -> str:
    return json.dumps({"city": city, "temperature": 4 if unit == "celsius" else 39, "unit": unit})


client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("API_KEY", "none"))
messages = [{"role": "user", "content": "What is the weather in Lisbon, in celsius?"}]
for turn in range(ROUNDS):
    answer = client.chat.completions.create(
        model="kimi_k2",
        messages=messages,
        tools=[WEATHER],
        # "auto" leaves the choice to the model in every round. Here the first round has to call.
        tool_choice="required" if turn == 0 else "auto",
        max_tokens=400,
    )
    message = answer.choices[0].message
    messages.append(message.model_dump(exclude_none=True))
    if answer.choices[0].finish_reason != "tool_calls":
        print(f"answer: {message.content}")
        break
    for call in message.tool_calls:
        result = get_weather(**json.loads(call.function.arguments))
        print(f"{call.function.name}({call.function.arguments}) -> {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
