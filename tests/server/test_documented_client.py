"""The Python of docs/client.md runs as it stands, against a real server at other ports."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from tests.server.running import ROOT, Server

PAGE = ROOT / "docs" / "client.md"


def blocks(page: Path = PAGE) -> list[tuple[int, str]]:
    """(line, code) of each Python block."""
    found = []
    begun: int | None = None
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line == "```python":
            begun = number
        elif line == "```" and begun is not None:
            found.append((begun, "\n".join(lines[begun : number - 1])))
            begun = None
    return found


@pytest.mark.parametrize(("line", "code"), blocks(), ids=[f"line {line}" for line, _ in blocks()])
def test_the_examples_run(line: int, code: str, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for default, port in ((8000, server.http), (8001, server.grpc)):
        code = code.replace(f"127.0.0.1:{default}", f"127.0.0.1:{port}")
    compiled = compile(code, f"{PAGE.name}:{line}", "exec", flags=0x2000, dont_inherit=True)  # top-level await
    result = eval(compiled, {"__name__": "example"})  # noqa: S307 - our own page
    if inspect.iscoroutine(result):
        asyncio.run(result)
    assert capsys.readouterr().out
