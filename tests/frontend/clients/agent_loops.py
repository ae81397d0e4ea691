"""A tool loop of two steps with openai-agents and pydantic-ai, over chat and responses, whole and streamed.

    scripts/test-clients agents agents-scripted
    python tests/frontend/clients/agent_loops.py URL [--scripted] [--transcript]    in .cache/venv-agents

Prints a line for each loop with what came of it. On the scripted engine every answer is known: one call,
whose result is in the last answer. A real model, of random weights at that, is made to call in the first step and is
free in the second: the call's arguments have to fit, its result has to be taken back, and a second answer has to come.
Exit code 1 if a loop did not go so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import agents
import pydantic_ai
from openai import AsyncOpenAI
from pydantic import Field
from pydantic_ai import RunContext
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

KEY = "sk-0123456789abcdef"
COMMAND = 'call forecast {"city":"Bern","days":2}'
STEPS = 2
TOKENS = 80
calls: list[tuple[str, int]] = []
Loop = Callable[[], Awaitable[tuple[str, list[Any]]]]


def forecast(city: Annotated[str, Field(max_length=12)], days: Annotated[int, Field(ge=1, le=7)]) -> str:
    """The weather."""
    assert isinstance(city, str)
    assert len(city) <= 12
    assert 1 <= days <= 7
    calls.append((city, days))
    return f"sunny in {city}"


def openai_agent(model: agents.Model, *, stream: bool) -> Loop:
    # Required in the first step alone: openai-agents goes back to `auto` once a tool was used.
    settings = agents.ModelSettings(tool_choice="required", parallel_tool_calls=False, max_tokens=TOKENS)
    agent = agents.Agent(name="a", tools=[agents.function_tool(forecast)], model=model, model_settings=settings)

    async def whole() -> tuple[str, list[Any]]:
        result = await agents.Runner.run(agent, COMMAND, max_turns=STEPS)
        return str(result.final_output), result.to_input_list()

    async def streamed() -> tuple[str, list[Any]]:
        running = agents.Runner.run_streamed(agent, COMMAND, max_turns=STEPS)
        async for _ in running.stream_events():
            pass
        return str(running.final_output), running.to_input_list()

    return streamed if stream else whole


def pydantic_agent(model: OpenAIChatModel | OpenAIResponsesModel, *, stream: bool) -> Loop:
    def settings(context: RunContext[None]) -> ModelSettings:
        choice = "required" if context.run_step <= 1 else "auto"
        return ModelSettings(max_tokens=TOKENS, tool_choice=choice, parallel_tool_calls=False)

    agent = pydantic_ai.Agent(model, tools=[forecast], model_settings=settings)
    limits = pydantic_ai.UsageLimits(request_limit=STEPS)

    async def whole() -> tuple[str, list[Any]]:
        result = await agent.run(COMMAND, usage_limits=limits)
        return result.output, json.loads(result.all_messages_json())

    async def streamed() -> tuple[str, list[Any]]:
        async with agent.run_stream(COMMAND, usage_limits=limits) as result:
            return await result.get_output(), json.loads(result.all_messages_json())

    return streamed if stream else whole


def loops(url: str) -> dict[str, Loop]:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    provider = OpenAIProvider(openai_client=client)
    found: dict[str, Loop] = {}
    for kind, ours, theirs in (
        ("chat", agents.OpenAIChatCompletionsModel, OpenAIChatModel),
        ("responses", agents.OpenAIResponsesModel, OpenAIResponsesModel),
    ):
        for stream in (False, True):
            name = f"{kind}, {'streamed' if stream else 'whole'}"
            model = ours(model="kimi_k2", openai_client=client)
            found[f"openai-agents {name}"] = openai_agent(model, stream=stream)
            found[f"pydantic-ai {name}"] = pydantic_agent(theirs("kimi_k2", provider=provider), stream=stream)
    return found


async def ends(run: Loop) -> tuple[str, list[Any]]:
    """The answer and the messages. A model that is free may call once more in its last step, or be cut off within a
    call: the agents say so by these errors, which are no answer of the server's.
    """
    try:
        return await run()
    except (agents.MaxTurnsExceeded, pydantic_ai.UsageLimitExceeded) as error:
        return f"(it called again in its last step: {type(error).__name__})", []
    except (agents.ModelBehaviorError, pydantic_ai.UnexpectedModelBehavior) as error:
        return f"(its last step was cut off within a call: {type(error).__name__}: {error})", []


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--scripted", action="store_true", help="the answers are known to the letter")
    parser.add_argument("--transcript", action="store_true", help="print every loop's messages")
    options = parser.parse_args()
    agents.set_tracing_disabled(True)
    failed = 0
    for name, run in loops(options.url).items():
        calls.clear()
        answer, messages = await ends(run)
        for message in messages if options.transcript else ():
            print(f"    {json.dumps(message, ensure_ascii=False, default=str)[:600]}")
        good = len(calls) >= 1
        if options.scripted:
            good = calls == [("Bern", 2)] and "sunny in Bern" in answer
        failed += not good
        print(f"{name}: {'ok' if good else 'FAILED'}, called {calls}, answered {answer!r}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
