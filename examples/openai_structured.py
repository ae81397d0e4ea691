"""Structured output with OpenAI's SDK: a pydantic model goes in, an instance of it comes out.

The grammar allows nothing else, so the answer is valid unless it is cut off at its length.

python examples/openai_structured.py [URL]
"""

import os
import sys
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel, ConfigDict

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9000"


class Ticket(BaseModel):
    model_config = ConfigDict(extra="forbid")

    priority: Literal["low", "normal", "high"]
    needs_reply: bool


client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("API_KEY", "none"))
answer = client.chat.completions.parse(
    model="kimi_k2",
    messages=[{"role": "user", "content": "Sort this mail: The printer on floor 3 burns. Please come at once!"}],
    response_format=Ticket,
    max_tokens=200,
)
ticket = answer.choices[0].message.parsed
print(f"priority {ticket.priority}, needs a reply: {ticket.needs_reply}")
