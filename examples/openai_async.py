"""Many chats at once with OpenAI's asyncio client. The last one is cancelled after its first words.

Leaving a stream ends its generation on the server.

python examples/openai_async.py [URL]
"""

import asyncio
import os
import sys

from openai import AsyncOpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:9000"
QUESTIONS = ["Who are you?", "What is 2 plus 3?", "Say hello in French.", "Tell me a long story."]


async def ask(client: AsyncOpenAI, question: str, *, pieces: int | None = None) -> str:
    """The answer, or its first `pieces` pieces."""
    text, count = "", 0
    async with await client.chat.completions.create(
        model="kimi_k2", messages=[{"role": "user", "content": question}], max_tokens=48, stream=True
    ) as stream:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            count += 1
            if count == pieces:
                break
    return text


async def main() -> None:
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("API_KEY", "none")) as client:
        whole = [ask(client, question) for question in QUESTIONS[:-1]]
        answers = await asyncio.gather(*whole, ask(client, QUESTIONS[-1], pieces=3))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(f"{question} -> {answer!r}")


asyncio.run(main())
