"""Triton never restarts a stub, so the launcher has to notice one that has died."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kimi_k2_serving.engine.given_up import GivenUp
from kimi_k2_serving.launch import serve
from kimi_k2_serving.launch.progress import Progress
from kimi_k2_serving.launch.stubs import Stubs

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Children of this process that look like stubs, with the arguments that Triton gives them."""
    program = tmp_path / "triton_python_backend_stub"
    program.symlink_to(sys.executable)
    made: list[subprocess.Popen[bytes]] = []

    def one(name: str) -> subprocess.Popen[bytes]:
        line = [str(program), "-c", "import time; print(flush=True); time.sleep(60)", "region", name, "Default"]
        made.append(subprocess.Popen(line, stdout=subprocess.PIPE))
        assert made[-1].stdout is not None
        made[-1].stdout.readline()
        return made[-1]

    yield one
    for each in made:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


def test_a_stub_that_is_gone_is_named_by_its_model_instance(start: Start) -> None:
    start("kimi_k2_preprocess_0_0")
    doomed = start("kimi_k2_engine_0_0")
    stubs = Stubs(os.getpid())
    assert stubs.dead() is None
    doomed.kill()
    doomed.wait()
    assert stubs.dead() == "kimi_k2_engine_0_0"


def test_other_children_and_a_parent_that_is_gone_do_not_count() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        stubs, orphaned = Stubs(os.getpid()), Stubs(child.pid)
        assert stubs.dead() is None
        child.wait()
        assert stubs.dead() is None
    assert orphaned.dead() is None


class Running:
    """A Triton that never ends."""

    def wait(self, seconds: float) -> None:
        return None


class Tended:
    """A frontend that has died, and whose restart fails `failures` times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tended = 0

    def tend(self) -> bool:
        self.tended += 1
        if self.tended <= self.failures:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return True


def test_serve_ends_when_the_engine_was_given_up_and_not_when_the_frontend_can_not_be_started(tmp_path: Path) -> None:
    said = io.StringIO()
    frontend = Tended(2)

    class Dead(Stubs):
        def dead(self) -> None:
            if frontend.tended == 3:
                GivenUp(tmp_path, "kimi_k2_engine").tell()

    failure = serve.watch(Running(), Dead(os.getpid()), frontend, Progress(said), tmp_path)  # type: ignore[arg-type]
    assert failure.detail == "the engine of kimi_k2_engine keeps dying and was given up"
    assert failure.exit_code == 1
    assert "the frontend died and could not be started yet: Resource temporarily unavailable" in said.getvalue()
    assert "the frontend died and was started again" in said.getvalue()
