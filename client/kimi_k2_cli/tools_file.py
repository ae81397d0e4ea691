"""Tools from a file, and the choice among them, as the command line gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kimi_k2_cli.given_file import read_json
from kimi_k2_serving.core.errors import InvalidValue


def tool_choice(given: str | None) -> Any:
    """OpenAI's form of the choice: a word, or the tool to call."""
    if given in (None, "auto", "none", "required"):
        return given
    return {"type": "function", "function": {"name": given}}


def read_tools(path: Path | None) -> Any:
    """The file's JSON list. Raises InvalidValue if it is none. The server checks the tools in it."""
    if path is None:
        return None
    tools = read_json(path, "--tools")
    if not isinstance(tools, list):
        raise InvalidValue("the file must contain a JSON list of tools", field="--tools")
    return tools
