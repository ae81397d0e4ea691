"""The second stage of `scripts/serve`, inside the virtual environment: prepare, start, watch, stop.

Exit codes: 0 stopped on request (or only prepared or printed), 1 something failed, 2 the flags were wrong.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from kimi_k2_serving.core.errors import ServingError
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine import checkpoint as engine_checkpoint
from kimi_k2_serving.engine import given_up, linux
from kimi_k2_serving.engine.config import load_engine_config
from kimi_k2_serving.engine.template_probe import form_of
from kimi_k2_serving.launch import backends, cli, machine, preflight, ready, running, state, triton_process
from kimi_k2_serving.launch import command as triton_command
from kimi_k2_serving.launch import frontend as frontend_process
from kimi_k2_serving.launch.cli import DEMO_PRESETS, Options
from kimi_k2_serving.launch.command import Command
from kimi_k2_serving.launch.frontend import Frontend
from kimi_k2_serving.launch.layout import Layout, checkout
from kimi_k2_serving.launch.progress import Progress, symptoms
from kimi_k2_serving.launch.published import published_name
from kimi_k2_serving.launch.refusal import Failure, Refusal
from kimi_k2_serving.launch.running import RunningServer
from kimi_k2_serving.launch.stubs import Stubs
from kimi_k2_serving.launch.triton_process import Stopped, TritonProcess
from kimi_k2_serving.settings import CHECKPOINT, PRESET, inherited, runtime_base

_PHASE_SECONDS = 0.25
_READY_SECONDS = 30.0  # from Triton being ready until the model must be; also the limit for the frontend's start


@dataclass(frozen=True, slots=True)
class ServedCheckpoint:
    """The checkpoint's directory, its context length in tokens (None: not stated), and the model repository."""

    checkpoint: Path
    context: int | None
    repository: Path


def main(argv: Sequence[str]) -> int:
    # This process began as scripts/serve, so the reported seconds include the first stage.
    progress = Progress(sys.stderr, age=time.time() - psutil.Process().create_time())
    try:
        return _run(argv, progress)
    except (Refusal, Failure) as error:
        progress.plain(str(error), level="error")
        return error.exit_code
    except KeyboardInterrupt:
        progress.plain("serve: stopped")
        return 130


def _run(argv: Sequence[str], progress: Progress) -> int:
    options = cli.parse_options(argv)
    layout = checkout()
    layout.run.mkdir(parents=True, exist_ok=True)
    # If the command is only printed, nothing of other servers is changed, even of dead ones.
    for line in () if options.print_command else state.clean_leftovers(layout.run):
        progress.line(line)
    checkpoint = options.checkpoint or demo(options, layout, progress)
    model = ServedCheckpoint(checkpoint, read_context_length(checkpoint), layout.model_repository)
    backends.assemble(layout.backends, backends.wheel(), layout.backend_source)
    if options.print_command:
        print(build_command(options, layout, model, runtime_dir=None).paste())
        return 0
    if options.prepare_only:
        progress.line("prepared; scripts/serve starts it")
        return 0
    others = running.servers(layout.run)
    preflight.check_ports(options, machine.port_is_free, others)
    for other in others:
        progress.line(f"notice: another server of this directory runs (pid {other.pid}) at {other.url}")
    check_template(model, options)
    with running.announced(layout.run, running_server(options, model)):
        return run(options, layout, model, progress)


def running_server(options: Options, model: ServedCheckpoint) -> RunningServer:
    """This process as `running` lists it, not ready yet."""
    started = running.start_of(os.getpid())
    assert started is not None, "this process exists"
    url = f"http://{ready.reachable(options.triton_host)}:{options.http_port}"
    ports = tuple(options.ports.values())
    return RunningServer(os.getpid(), started, url, ports, str(model.checkpoint), options.checkpoint is None)


def demo(options: Options, layout: Layout, progress: Progress) -> Path:
    """Build the preset's demo checkpoint if it is missing, and return its directory."""
    preset = options.preset or DEMO_PRESETS[0]
    target = layout.checkpoints / preset
    weights = "random" if preset == "demo-random" else "trained"
    command = [sys.executable, "-m", "kimi_k2_serving.demo", "--output", str(target), "--weights", weights]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=linux.die_with_parent
    ) as builder:
        assert builder.stdout is not None
        line = ""
        for line in builder.stdout:
            progress.status(line.strip())
    if builder.returncode:
        raise Failure(f"the demo checkpoint could not be built: {line.strip()}")
    return target


def read_context_length(checkpoint: Path) -> int | None:
    """The context length in tokens, None if the checkpoint does not state it. Raise Refusal if it is not Kimi K2's."""
    try:
        found = engine_checkpoint.inspect_checkpoint(checkpoint)
        engine_checkpoint.require_k2(found)
    except ServingError as error:
        raise Refusal(
            f"--checkpoint {checkpoint}", error.detail, "give the directory of a Kimi K2 checkpoint"
        ) from None
    return found.context_length or None


def check_template(model: ServedCheckpoint, options: Options) -> None:
    """Raise Refusal if the checkpoint's chat template makes other prompts than this server. Preprocess also checks
    this, but then Triton ends only after the engine has loaded, which takes minutes with a large checkpoint.
    """
    environ = {**inherited(), CHECKPOINT: str(model.checkpoint), **({PRESET: options.preset} if options.preset else {})}
    try:
        config = load_engine_config(model.repository / "kimi_k2_engine" / "1" / "engine.yaml", environ)
        sorts = Vocabulary.load(model.checkpoint).sort_tool_keys
        form_of(model.checkpoint, sorts=sorts, strict=config.strict_template)
    except ServingError as error:
        raise Refusal(f"--checkpoint {model.checkpoint}", error.field, error.detail) from None


def build_command(options: Options, layout: Layout, model: ServedCheckpoint, *, runtime_dir: Path | None) -> Command:
    """The tritonserver command of this checkout."""
    library = machine.libpython()
    if library is None:
        raise Refusal(
            "this Python has no libpython", "Triton's Python stub loads it", "install libpython3.11 and remove .venv"
        )
    wheel = backends.wheel()
    argv = triton_command.triton_arguments(
        options,
        server=wheel.server,
        repository=model.repository,
        backends=layout.backends,
    )
    environment = triton_command.triton_environment(
        wheel=wheel,
        venv=Path(sys.prefix),
        libpython=library,
        path=inherited().get("PATH", "/usr/bin:/bin"),
        checkpoint=model.checkpoint,
        preset=options.preset,
        force_cpu=options.on_cpu,
        cache=layout.cache,
        runtime_dir=runtime_dir,
    )
    return Command(argv, environment)


def run(options: Options, layout: Layout, model: ServedCheckpoint, progress: Progress) -> int:
    """Start Triton, print the READY block, watch until Triton ends or a signal comes, and always clean up."""
    runtime_dir = triton_process.make_runtime_dir(runtime_base())
    log = layout.logs / f"tritonserver-{options.http_port}.log"
    command = build_command(options, layout, model, runtime_dir=runtime_dir)
    triton = TritonProcess(
        command,
        log=log,
        run=layout.run,
        runtime_dir=runtime_dir,
        grace=options.grace,
    )
    frontend = build_frontend(options, layout, model, command.merged(inherited()))
    try:
        triton.start(inherited())
        try:
            # It starts beside the engine and is ready after it.
            if options.frontend:
                frontend.start()
            _wait_ready(triton, frontend, options, log, progress)
            stubs = Stubs(triton.pid)
            if options.frontend:
                _wait_frontend(triton, frontend, options, progress)
        except OSError as error:
            raise Failure(f"the frontend could not be started: {error.strerror}") from None
        _announce(ready.Ready(options, model.checkpoint, model.context, _engine(), log, progress.elapsed()))
        running.announce(layout.run, replace(running_server(options, model), is_ready=True))
        end = watch(triton, stubs, frontend, progress, runtime_dir)
        raise Failure(f"{end.detail}; {log} says:\n{symptoms(log)}")
    except Stopped as stopped:
        progress.line(f"{stopped}: stopping, up to {options.grace} s for requests in flight")
        return 0
    finally:
        stopping = time.monotonic()
        frontend.end()
        removed = triton.stop()
        leftovers = f", {len(removed)} leftovers removed from /dev/shm" if removed else ""
        progress.line(f"stopped in {time.monotonic() - stopping:.1f} s{leftovers}")


def watch(triton: TritonProcess, stubs: Stubs, frontend: Frontend, progress: Progress, runtime_dir: Path) -> Failure:
    """Return why Triton, a model or the engine ended for good. Restart a dead frontend. Raise Stopped for a signal."""
    while (status := triton.wait(1.0)) is None:
        try:
            if frontend.tend():
                progress.line("the frontend died and was started again", level="warning")
        except OSError as error:
            progress.line(f"the frontend died and could not be started yet: {error.strerror}", level="error")
        if (why := given_up.why_given_up(runtime_dir)) is not None:
            return Failure(why)
        # Stubs also die when Triton itself ends, so a dead stub counts only if Triton still runs a second later.
        if (instance := stubs.dead()) is not None and (status := triton.wait(1.0)) is None:
            return Failure(f"the process of {instance} died, and Triton does not restart it")
        if status is not None:
            break
    return triton_process.why_triton_ended(status)


def build_frontend(options: Options, layout: Layout, model: ServedCheckpoint, environment: dict[str, str]) -> Frontend:
    command = frontend_process.frontend_arguments(
        options,
        python=Path(sys.executable),
        checkpoint=model.checkpoint,
        repository=model.repository,
        aliases=options.model_alias or [name for name in [published_name(model.checkpoint)] if name],
    )
    # Only Triton's stubs need the libraries of LD_LIBRARY_PATH.
    own = {name: value for name, value in environment.items() if name != "LD_LIBRARY_PATH"}
    return Frontend(command, own, layout.logs / f"frontend-{options.frontend_port}.log")


def _wait_frontend(triton: TritonProcess, frontend: Frontend, options: Options, progress: Progress) -> None:
    """Return when the frontend is ready. Raise Failure if it or Triton ends first, or after _READY_SECONDS."""
    begun = time.monotonic()
    while not ready.answers(options.host, options.frontend_port, "/health/ready"):
        progress.status("starting the frontend")
        if (status := triton.wait(0.2)) is not None:
            raise triton_process.why_triton_ended(status)
        if frontend.tend() or time.monotonic() - begun > _READY_SECONDS:
            raise _no_frontend(frontend)


def _no_frontend(frontend: Frontend) -> Failure:
    return Failure(f"the frontend did not start; {frontend.log} says:\n{symptoms(frontend.log)}")


def _wait_ready(triton: TritonProcess, frontend: Frontend, options: Options, log: Path, progress: Progress) -> None:
    """Return when the model is ready. Raise Failure if Triton or the frontend ends first, or if Triton is ready long
    before the model is.
    """
    triton_ready: float | None = None
    while not ready.is_ready(options.triton_host, options.http_port, ready.MODEL):
        if (status := triton.wait(_PHASE_SECONDS)) is not None:
            raise Failure(
                f"Triton did not start: {triton_process.why_triton_ended(status).detail}; {log} says:\n{symptoms(log)}"
            )
        if frontend.tend():
            raise _no_frontend(frontend)
        progress.status(ready.phase(log, demo=options.checkpoint is None))
        if ready.answers(options.triton_host, options.http_port, "/v2/health/ready"):
            triton_ready = triton_ready or time.monotonic()
            if time.monotonic() - triton_ready > _READY_SECONDS:
                raise Failure(f"Triton is ready but {ready.MODEL} is not; {log} says:\n{symptoms(log)}")


def _announce(block: ready.Ready) -> None:
    print(json.dumps(block.document()) if block.options.json else block.text(), flush=True)


def _engine() -> str:
    sglang, torch, pytriton = map(importlib.metadata.version, ("sglang", "torch", "nvidia-pytriton"))
    return f"SGLang {sglang} on PyTorch {torch}, in Triton 24.10 (nvidia-pytriton {pytriton})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
