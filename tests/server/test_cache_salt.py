"""The prefix cache on the real server: shared among requests of one salt, and by nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.frontend.running import over
from tests.server.running import Server
from tests.server.test_chat import over_grpc

MODEL = "kimi_k2_engine"
KEYS = {
    "left": "sk-left-0123456789",
    "same": "sk-same-0123456789",
    "right": "sk-right-012345678",
    "plain": "sk-plain-01234567",
}


def cached(server: Server, text: str, **more: Any) -> int:
    responses = over_grpc(
        server,
        {"text_input": text, "max_tokens": 4, "ignore_eos": True, "return_num_input_tokens": True, **more},
        MODEL,
    )
    counts = [int(each["num_cached_tokens"]) for each in responses if "num_cached_tokens" in each]
    assert len(set(counts)) == 1, "every response says the same"
    return counts[0]


def test_only_the_same_salt_finds_what_was_asked_before(server: Server) -> None:
    text = "the same long question of everybody " * 20
    assert cached(server, text, cache_salt="left") == 0
    assert cached(server, text, cache_salt="left") > 0
    assert cached(server, text, cache_salt="right") == 0
    assert cached(server, text) == 0
    assert cached(server, text) > 0
    assert cached(server, text, cache_salt="") > 0
    assert cached(server, text, cache_salt="right") > 0


def test_keys_share_a_cache_only_if_their_salts_are_the_same(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    salts = {"left": "cache_salt=a", "same": "cache_salt=a", "right": "cache_salt=b", "plain": ""}
    file.write_text("".join(f"{KEYS[name]} name={name} {salt}\n" for name, salt in salts.items()))
    with over(server, "--api-key-file", str(file)) as url:
        seen = [
            (name, through(url, KEYS[name])) for name in ("left", "left", "same", "right", "right", "plain", "plain")
        ]
    # Every prompt begins alike: without a salt some tokens are there already.
    hits = [(name, count > 50) for name, count in seen]
    assert hits == [
        ("left", False), ("left", True), ("same", True), ("right", False), ("right", True),
        ("plain", False), ("plain", True),
    ]  # fmt: skip


def through(url: str, key: str) -> int:
    """Cached tokens as usage says; a stop string with tools ends the answer here and not in the engine."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    body = {
        "model": "kimi_k2",
        "messages": [{"role": "user", "content": "another long question of everybody " * 20}],
        "tools": [tool],
        "tool_choice": "none",
        "stop": list("aeiou "),
        "max_tokens": 200,
    }
    headers = {"authorization": f"Bearer {key}"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120).raise_for_status()
    usage = answer.json()["usage"]
    assert usage["completion_tokens"] < 200, "a stop string has ended it"
    count = usage["prompt_tokens_details"]["cached_tokens"]
    assert isinstance(count, int)
    return count
