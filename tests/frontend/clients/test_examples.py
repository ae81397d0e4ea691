"""The example for Anthropic's SDK runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import KEY

EXAMPLE = Path(__file__).parents[3] / "examples" / "anthropic_messages.py"


def test_the_example_streams_a_message_and_prints_a_call(url: str) -> None:
    environment = {**os.environ, "API_KEY": KEY}
    ended = subprocess.run(
        [sys.executable, str(EXAMPLE), url], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "functions_list_directory_0: list_directory({'path': " in ended.stdout
