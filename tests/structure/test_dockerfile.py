"""The image, as far as it can be checked without a build: the files that it copies, its pins, and its server script."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kimi_k2_serving.launch import cli, command, lock
from kimi_k2_serving.launch.layout import checkout
from kimi_k2_serving.launch.machine import Gpu, Machine
from kimi_k2_serving.launch.preflight import check_machine
from kimi_k2_serving.launch.refusal import Refusal
from tests.structure.tree import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
# The base image already has Triton.
NOT_INSTALLED = {"nvidia-pytriton"}


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A directory with the image's server script and a `tritonserver` that prints its arguments, one per line."""
    script = re.search(r"<<'EOF' /opt/kimi-k2/bin/kimi-k2-server\n(.*?)^EOF$", DOCKERFILE, re.DOTALL | re.MULTILINE)
    assert script
    for name, text in (("kimi-k2-server", script[1]), ("tritonserver", '#!/bin/sh\nprintf "%s\\n" "$@"\n')):
        (tmp_path / name).write_text(text, "utf-8")
        (tmp_path / name).chmod(stat.S_IRWXU)
    return tmp_path


def start(server: Path, *arguments: str, preset: str | None = "b200-8") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{server}:{os.defpath}"} | ({"KIMI_K2_PRESET": preset} if preset else {})
    return subprocess.run(
        ["kimi-k2-server", *arguments],
        env=environment,
        executable=server / "kimi-k2-server",
        capture_output=True,
        text=True,
    )


def test_everything_that_is_copied_exists_and_is_let_through() -> None:
    sources = [
        word for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    let_through = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert len(sources) > 5
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if f"!{source.split('/')[0]}" not in let_through] == []


def test_the_lock_of_the_image_has_the_pins_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {*map(Requirement, (*project["dependencies"], *project["optional-dependencies"]["serve"]))}
    locked = {pin.name: pin for pin in lock.read_pins((ROOT / "requirements" / "serve-gpu.txt").read_text("utf-8"))}
    for each in wanted:
        name = canonicalize_name(each.name)
        if name not in NOT_INSTALLED:
            assert each.specifier.contains(locked[name].version), each
    assert not NOT_INSTALLED & locked.keys()
    assert "-r /opt/kimi-k2/serve-gpu.txt" in DOCKERFILE
    assert "--require-hashes" in DOCKERFILE


def test_triton_is_at_least_the_oldest_recommended() -> None:
    found = re.search(r"^ARG TRITON_IMAGE=nvcr\.io/nvidia/tritonserver:(\d+)\.(\d+)-py3$", DOCKERFILE, re.MULTILINE)
    assert found
    assert (int(found[1]), int(found[2])) >= (26, 5)


def test_the_build_proves_that_kernels_compile_and_fetches_them_for_good() -> None:
    """Not run: no container engine here. The proof itself runs in CI, on the lock's wheels."""
    steps = DOCKERFILE.split("\n# ")
    proof = next(number for number, step in enumerate(steps) if "launch.prove_cuda --complete" in step)
    package = next(number for number, step in enumerate(steps) if "pip install --no-cache-dir --no-deps ." in step)
    assert proof > package
    home = re.search(r"^ENV CUDA_HOME=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert home
    assert home[1].startswith("/opt/kimi-k2/lib/python3.12/site-packages/nvidia/")
    assert re.search(r"apt-get install [^&]*\bg\+\+ [^&]*\blibibverbs1\b", DOCKERFILE)
    cubins = re.search(r"^ENV FLASHINFER_CUBIN_DIR=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert cubins
    volumes = re.findall(r'"(/[^"]+)"', re.search(r"^VOLUME (.+)$", DOCKERFILE, re.MULTILINE)[1])  # type: ignore[index]
    assert not any(cubins[1].startswith(volume) for volume in volumes)
    fetching = re.search(r'python3 -c "(from flashinfer .*?)" \\\n', DOCKERFILE, re.DOTALL)
    assert fetching
    ast.parse(fetching[1].replace("\\\n", ""))
    assert DOCKERFILE.index("download_artifacts") < DOCKERFILE.index("ENV FLASHINFER_NO_DOWNLOAD=1")


def test_it_runs_as_nobody_special_and_says_how_it_is() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users[-1] == "1000:1000"
    assert "/v2/health/ready" in DOCKERFILE.split("HEALTHCHECK", 1)[1]


def test_the_server_is_hardened_as_the_launcher_hardens_it(server: Path) -> None:
    flags = start(server).stdout.splitlines()
    for flag in ("--http-restricted-api", "--grpc-restricted-protocol"):
        assert f"{flag}={command.UNSENDABLE}" in flags
    for flag in ("--model-control-mode=none", "--allow-sagemaker=false", "--allow-vertex-ai=false"):
        assert flag in flags
    assert "umask 077" in (server / "kimi-k2-server").read_text("utf-8")


def test_an_operator_s_arguments_come_last(server: Path) -> None:
    assert start(server, "--http-port=9000").stdout.split()[-1] == "--http-port=9000"


def test_without_a_preset_it_says_so_and_does_not_start(server: Path) -> None:
    done = start(server, preset=None)
    assert done.returncode == 2
    assert "KIMI_K2_PRESET" in done.stderr
    assert done.stdout == ""


def test_the_launcher_s_docker_line_fits_the_image(tmp_path: Path) -> None:
    """On a machine with GPUs `scripts/serve` prints how to run the image: the preset is an environment variable."""
    machine = Machine(
        python=(3, 11),
        architecture="x86_64",
        cpu_flags=frozenset({"avx2"}),
        glibc=(2, 39),
        libpython=Path("libpython3.11.so"),
        free_disk=10**12,
        nvidia=True,
        gpus=(Gpu("NVIDIA B200", 179 * 2**30),) * 8,
    )
    (tmp_path / "config.json").touch()
    options = cli.parse_options(["--checkpoint", str(tmp_path)])
    with pytest.raises(Refusal) as refused:
        check_machine(options, machine, checkout(), installed=True, port_is_free=lambda host, port: True)
    line = str(refused.value)
    assert "-e KIMI_K2_PRESET=b200-8" in line
    assert "--preset" not in line
