"""A streamed message and a tool call with Anthropic's SDK.

python examples/anthropic_messages.py [URL]
"""

import os
import sys

from anthropic import Anthropic

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9000"
client = Anthropic(base_url=URL, api_key=os.environ.get("API_KEY", "none"))

with client.messages.stream(
    model="kimi_k2", max_tokens=48, messages=[{"role": "user", "content": "Who are you?"}]
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()

message = client.messages.create(
    model="kimi_k2",
    max_tokens=400,
    messages=[{"role": "user", "content": "Which files are in /tmp?"}],
    tools=[
        {
            "name": "list_directory",
            "description": "The names in a directory",
            "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        }
    ],
    tool_choice={"type": "any"},
)
for block in message.content:
    if block.type == "tool_use":
        print(f"{block.id}: {block.name}({block.input})")
