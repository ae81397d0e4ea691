"""`scripts/test-clients`: clients that nobody here wrote, against a real server of their own and the scripted engine.

Each suite runs in an environment of its lock alone (.cache/venv-NAME, made when missing or outdated). The server and
the frontends take free ports and are gone at the end. The suites of the real server and those of the scripted engine
run side by side, each in order; what a suite says is printed when it has ended. Exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.launch.install import ensure_apart
from kimi_k2_serving.launch.layout import checkout
from kimi_k2_serving.launch.progress import Progress
from tests.frontend.running import over, scripted
from tests.server.running import ROOT, running
from tests.support import tally
from tests.support.tally import Count

EPILOG = """\
suites:
  sdks            openai 2, anthropic, litellm (openai, anthropic, triton), langchain-openai, on the real server
  sdks-scripted   their tests that ask for an answer known to the letter, on the scripted engine
  openai-3        the openai suite again with version 3 of the SDK, on the real server
  agents          openai-agents and pydantic-ai: tool loops of two steps, on the real server
  agents-scripted the same on the scripted engine, whose answers are known
  evaluation      lm-eval's loglikelihoods over /v1/completions, on the real server
  fuzz            schemathesis over /openapi.json, on the real server
  codex-scripted, claude-code-scripted
                  the agents themselves, headless, from npm (Node 20 or later), on the scripted engine

examples:
  scripts/test-clients
  scripts/test-clients sdks fuzz
  scripts/test-clients fuzz --fuzz-examples 200
"""
# The conftest's.
KEY = "sk-0123456789abcdef"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "negative_data_rejection",
)
SUITE_SECONDS = 900
NODE = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where the clients go: the real server's frontend, the scripted one's, Triton's own HTTP. `checkpoint`: the real
    server's.
    """

    real: str
    scripted: str
    triton: str
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Pythons:
    clients: Path
    agents: Path
    evaluation: Path


Command = list[str]


def pytest(python: Path, *arguments: str) -> Command:
    # Not the project's own options: its plugins and its strictness are not in that environment.
    alone = (
        "-c",
        os.devnull,
        "--rootdir",
        str(ROOT),
        "--confcutdir",
        "tests/frontend/clients",
        "-p",
        "no:cacheprovider",
    )
    return [str(python), "-m", "pytest", "-q", *alone, *arguments]


def agents(python: Path, url: str, *flags: str) -> Command:
    return [str(python), "tests/frontend/clients/agent_loops.py", url, *flags]


def evaluation(python: Path, place: Place) -> Command:
    return [str(python), "tests/frontend/clients/evaluation.py", place.real, place.checkpoint]


def from_npm(agent: str, url: str) -> Command:
    """The script of that agent; its installation is kept."""
    return [f"tests/frontend/clients/{agent}.sh", url, str(ROOT / ".cache" / f"npm-{agent}")]


def schemathesis(python: Path, url: str, examples: int) -> Command:
    options = {
        "--phases": "examples,coverage,fuzzing",
        "--max-examples": str(examples),
        # Not a client's patience but the promise that nothing hangs.
        "--request-timeout": "60",
        "--checks": ",".join(CHECKS),
        "--seed": "1",
        "--header": f"Authorization: Bearer {KEY}",
    }
    words = [word for pair in options.items() for word in pair]
    return [str(python.parent / "schemathesis"), "run", f"{url}/openapi.json", "--no-color", *words]


def suites(options: argparse.Namespace) -> dict[str, Callable[[Place, Pythons], Command]]:
    folder, openai = "tests/frontend/clients", "tests/frontend/clients/test_openai_sdk.py"
    return {
        "sdks": lambda place, python: pytest(python.clients, "-m", "not scripted", folder),
        "sdks-scripted": lambda place, python: pytest(python.clients, "-m", "scripted", folder),
        "openai-3": lambda place, python: pytest(python.agents, "-m", "not scripted", openai),
        "agents": lambda place, python: agents(python.agents, place.real),
        "agents-scripted": lambda place, python: agents(python.agents, place.scripted, "--scripted"),
        "evaluation": lambda place, python: evaluation(python.evaluation, place),
        "fuzz": lambda place, python: schemathesis(python.clients, place.real, options.fuzz_examples),
        "codex-scripted": lambda place, python: from_npm("codex", place.scripted),
        "claude-code-scripted": lambda place, python: from_npm("claude_code", place.scripted),
    }


def is_scripted(name: str) -> bool:
    return name.endswith("scripted")


def run_in_order(chosen: Mapping[str, Command], place: Place) -> list[str]:
    """Returns the names of those that failed."""
    return [name for name, command in chosen.items() if not run(name, command, place)]


def run(name: str, command: Command, place: Place) -> bool:
    url = place.scripted if is_scripted(name) else place.real
    environment = {
        **os.environ,
        "KIMI_K2_CLIENTS_URL": url,
        "KIMI_K2_CLIENTS_TRITON": place.triton,
        "SCHEMATHESIS_HOOKS": "tests.frontend.clients.short_answers",
    }
    print(f"=== {name}: begun", flush=True)
    if command[0].endswith(".sh") and not has_node():
        print(f"=== {name}: skipped: it needs Node {NODE} or later and npm", flush=True)
        tally.record(Count(name, skipped=1))
        return True
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report, said = Path(folder) / "report.xml", Path(folder) / "said"
        line = [*command, f"--junitxml={report}"] if "pytest" in command else command
        with said.open("wb") as output:
            try:
                code = subprocess.run(
                    line, cwd=ROOT, env=environment, stdout=output, stderr=output, timeout=SUITE_SECONDS, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        tally.record(counted(name, command, report, code))
        verdict = f"{'passed' if code == 0 else 'FAILED'} in {time.monotonic() - begin:.0f} s"
        print(f"\n{said.read_text('utf-8', 'replace')}=== {name}: {verdict}", flush=True)
    return code == 0


def has_node() -> bool:
    """Whether what npm installs can run here."""
    try:
        version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    return int(version.removeprefix("v").partition(".")[0]) >= NODE and shutil.which("npm") is not None


def counted(name: str, command: Command, report: Path, code: int) -> Count:
    """pytest's tests one by one; any other program is one check."""
    if "pytest" in command:
        count = tally.added(tally.of_report(report, lambda _: name), name)
        return dataclasses.replace(count, failed=max(count.failed, int(code != 0)))
    return Count(name, passed=int(code == 0), failed=int(code != 0))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/test-clients",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(suites(argparse.Namespace()))
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="some of them; all without")
    parser.add_argument("--fuzz-examples", type=int, default=15, metavar="N", help="per operation (%(default)s)")
    options = parser.parse_args()
    if unknown := set(options.suites) - set(names):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    progress = Progress(sys.stderr)
    pythons = Pythons(*(ensure_apart(checkout(), name, progress) for name in ("clients", "agents", "evaluation")))
    progress.line("starting a server")
    with tempfile.TemporaryDirectory() as directory:
        keys = Path(directory) / "keys"
        keys.write_text(f"{KEY} name=clients\n")
        flag = ("--api-key-file", str(keys))
        with running() as server, over(server, *flag) as real, scripted(*flag) as known:
            place = Place(real, known, server.url, server.ready["checkpoint"])
            made = {name: make(place, pythons) for name, make in suites(options).items()}
            chosen = {name: command for name, command in made.items() if name in (options.suites or names)}
            sides = [{name: chosen[name] for name in chosen if is_scripted(name) == side} for side in (False, True)]
            with ThreadPoolExecutor(len(sides)) as pool:
                failed = [name for each in pool.map(lambda side: run_in_order(side, place), sides) for name in each]
    print(f"\n{len(chosen)} suites, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
