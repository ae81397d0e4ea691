"""A tool loop of two steps with openai-agents (chat and responses, whole and streamed) and pydantic-ai.

    pip install openai-agents 'pydantic-ai-slim[openai]'
    python tests/frontend/clients/agent_loops.py http://127.0.0.1:PORT       the frontend over tests.frontend.scripted

Prints a line per agent and exits 1 if one did not call the tool once and end with its result.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import agents
from openai import AsyncOpenAI
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

KEY = "sk-0123456789abcdef"
COMMAND = 'call forecast {"city":"Bern","days":2}'
calls: list[tuple[str, int]] = []


def forecast(city: str, days: int) -> str:
    """The weather."""
    calls.append((city, days))
    return f"sunny in {city}"


def openai_agent(model: agents.Model, *, stream: bool) -> Callable[[], Awaitable[str]]:
    settings = agents.ModelSettings(tool_choice="required", max_tokens=200)
    agent = agents.Agent(name="a", tools=[agents.function_tool(forecast)], model=model, model_settings=settings)

    async def whole() -> str:
        return str((await agents.Runner.run(agent, COMMAND, max_turns=4)).final_output)

    async def streamed() -> str:
        running = agents.Runner.run_streamed(agent, COMMAND, max_turns=4)
        async for _ in running.stream_events():
            pass
        return str(running.final_output)

    return streamed if stream else whole


def pydantic_agent(model: OpenAIChatModel | OpenAIResponsesModel) -> Callable[[], Awaitable[str]]:
    agent = PydanticAgent(model, tools=[forecast], model_settings={"max_tokens": 200})

    async def run() -> str:
        return (await agent.run(COMMAND)).output

    return run


async def main(url: str) -> int:
    agents.set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY)
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key=KEY)
    chat = agents.OpenAIChatCompletionsModel(model="kimi_k2", openai_client=client)
    responses = agents.OpenAIResponsesModel(model="kimi_k2", openai_client=client)
    cases = {
        "openai-agents chat": openai_agent(chat, stream=False),
        "openai-agents chat, streamed": openai_agent(chat, stream=True),
        "openai-agents responses": openai_agent(responses, stream=False),
        "openai-agents responses, streamed": openai_agent(responses, stream=True),
        "pydantic-ai chat": pydantic_agent(OpenAIChatModel("kimi_k2", provider=provider)),
        "pydantic-ai responses": pydantic_agent(OpenAIResponsesModel("kimi_k2", provider=provider)),
    }
    failed = 0
    for name, run in cases.items():
        calls.clear()
        answer = await run()
        good = calls == [("Bern", 2)] and "sunny in Bern" in answer
        failed += not good
        print(f"{name}: {'ok' if good else 'FAILED'}, called {calls}, answered {answer!r}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
