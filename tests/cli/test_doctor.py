"""`kimi-k2 doctor`: what it says about a laptop, about three clusters, and about what one of them lacks."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_cli.checkpoint_files import checksum_problems, incomplete_files
from kimi_k2_cli.doctor import PAIR, PORTS, Diagnosis, checkpoint_checks, machine_checks
from kimi_k2_cli.host import Host, observe_host
from kimi_k2_cli.main import main
from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.launch.machine import Gpu, Machine
from tests.support.demo import demo

__all__ = ["demo"]
MIB = 2**20
H100, B200, GB200 = (
    Gpu("NVIDIA H100 80GB HBM3", 81_559 * MIB),
    Gpu("NVIDIA B200", 183_359 * MIB),
    Gpu("NVIDIA GB200", 189_471 * MIB),
)
LAPTOP = Host(
    machine=Machine(
        python=(3, 12),
        architecture="x86_64",
        cpu_flags=frozenset({"avx2"}),
        glibc=(2, 39),
        libpython=Path("/usr/lib/libpython3.12.so.1.0"),
        free_disk=10**12,
        nvidia=False,
        gpus=(),
    ),
    versions=PAIR,
    own_ports=frozenset(),
    busy_ports=frozenset(),
    shm_bytes=8 * 2**30,
    open_files=1_048_576,
    locked_bytes=8 * MIB,
    nvcc=None,
    nccl=False,
    infiniband=(),
)


def cluster(*gpus: Gpu, **changes: Any) -> Host:
    """One machine of a healthy cluster."""
    healthy: dict[str, Any] = {
        "machine": replace(LAPTOP.machine, nvidia=True, gpus=gpus),
        "shm_bytes": 64 * 2**30,
        "locked_bytes": -1,
        "nvcc": "13.0",
        "nccl": True,
        "infiniband": ("mlx5_0", "mlx5_1"),
    }
    return replace(LAPTOP, **{**healthy, **changes})


def wrong(host: Host, nodes: int = 1) -> dict[str, Diagnosis]:
    return {each.name: each for each in machine_checks(host, nodes) if each.status in ("problem", "warning")}


def test_a_laptop_is_well() -> None:
    assert wrong(LAPTOP) == {}
    assert [each.name for each in machine_checks(LAPTOP, 1) if each.status == "skipped"] == ["GPUs"]


@pytest.mark.parametrize(
    ("host", "nodes"),
    [(cluster(*[B200] * 8, infiniband=()), 1), (cluster(*[H100] * 8), 2), (cluster(*[GB200] * 4), 4)],
    ids=["8 x B200", "16 x H100", "16 x GB200"],
)
def test_three_clusters_are_well(host: Host, nodes: int) -> None:
    assert wrong(host, nodes) == {}


@pytest.mark.parametrize(
    ("host", "nodes", "name", "says"),
    [
        (cluster(*[H100] * 8), 1, "GPUs", "h100-16 needs 2 such machines"),
        (cluster(*[H100] * 4), 1, "GPUs", "kimi-k2 plan"),
        (cluster(*[H100] * 8, infiniband=()), 2, "InfiniBand", "drivers of the fabric"),
        (cluster(*[B200] * 8, nvcc=None), 1, "CUDA", "CUDA_HOME"),
        (cluster(*[B200] * 8, nccl=False), 1, "NCCL", "use the image"),
        (cluster(*[B200] * 8, shm_bytes=64 * MIB), 1, "shm", "--shm-size 16g"),
        (cluster(*[B200] * 8, locked_bytes=65_536), 1, "memlock", "memlock=-1"),
        (replace(LAPTOP, open_files=1024), 1, "open files", "ulimit -n"),
        (replace(LAPTOP, busy_ports=frozenset({8001})), 1, "port 8001", "--grpc-port PORT"),
        (replace(LAPTOP, versions={**PAIR, "sglang": "0.5.0"}), 1, "packages", "tested pair"),
        (replace(LAPTOP, versions={}), 1, "packages", "the client needs neither"),
        (replace(LAPTOP, machine=replace(LAPTOP.machine, python=(3, 13))), 1, "python", "or uv"),
        (replace(LAPTOP, machine=replace(LAPTOP.machine, libpython=None)), 1, "libpython", "libpython3.12"),
        (replace(LAPTOP, machine=replace(LAPTOP.machine, glibc=(2, 31))), 1, "glibc", "Ubuntu 22.04"),
        (replace(LAPTOP, machine=replace(LAPTOP.machine, cpu_flags=frozenset())), 1, "AVX2", "VM type"),
        (replace(LAPTOP, machine=replace(LAPTOP.machine, architecture="aarch64")), 1, "processor", "image"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(host: Host, nodes: int, name: str, says: str) -> None:
    found = wrong(host, nodes)
    assert list(found) == [name]
    assert says in found[name].fix


def test_a_port_of_this_checkout_s_server_is_no_problem() -> None:
    host = replace(LAPTOP, busy_ports=frozenset(PORTS.values()), own_ports=frozenset(PORTS.values()))
    assert wrong(host) == {}


@pytest.mark.skipif(find_spec("pytriton") is None, reason="it looks at the installed server")
def test_this_machine_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "class" / "infiniband" / "mlx5_0").mkdir(parents=True)
    host = observe_host(tmp_path, PORTS, sys=tmp_path, shm=tmp_path)
    assert host.infiniband == ("mlx5_0",)
    assert host.shm_bytes > 0
    assert host.versions == PAIR


def test_the_command_prints_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["healthy"] == (code == 0)
    assert {"python", "shm", "GPUs"} <= {check["name"] for check in document["checks"]}
    assert main(["doctor"]) == code
    assert "python" in capsys.readouterr().out


def test_a_whole_checkpoint_is_well(demo: Path) -> None:
    assert {each.name: each.status for each in checkpoint_checks(demo, None)} == {
        "checkpoint": "ok",
        "checksum": "skipped",
        "template": "ok",
    }


@pytest.fixture
def copy(demo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo, tmp_path / "copy"))


def weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def test_a_file_that_was_cut_off_is_found_without_its_sum(copy: Path) -> None:
    path = weights(copy)
    path.write_bytes(path.read_bytes()[:-1])
    (problem,) = incomplete_files(copy)
    assert problem.startswith(f"{path.name} has ")
    path.write_bytes(b"\xff" * 64)
    assert incomplete_files(copy) == [f"{path.name} has no header of safetensors"]


def test_a_file_that_the_index_names_must_exist(copy: Path) -> None:
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": weights(copy).name, "b": "more.safetensors"}}))
    assert incomplete_files(copy) == ["more.safetensors is missing"]
    index.write_text("[]")
    assert incomplete_files(copy) == ["model.safetensors.index.json can't be read"]


def test_sums_are_compared(copy: Path, tmp_path: Path) -> None:
    sums = tmp_path / "sums"
    digest = hashlib.sha256(weights(copy).read_bytes()).hexdigest()
    sums.write_text(f"{digest}  {weights(copy).name}\n{'0' * 64}  config.json\n{digest} *missing\n")
    assert checksum_problems(copy, sums) == ["config.json differs", "missing can't be read"]
    sums.write_text("nonsense\n")
    with pytest.raises(InvalidValue, match="sha256sum"):
        checksum_problems(copy, sums)


def test_what_is_no_checkpoint_and_another_template_are_problems(copy: Path, tmp_path: Path) -> None:
    assert [each.status for each in checkpoint_checks(tmp_path, None)] == ["problem"]
    template = copy / "chat_template.jinja"
    if not template.is_file():
        settings = json.loads((copy / "tokenizer_config.json").read_text())
        settings["chat_template"] = "{{ messages[0].content }}"
        (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    else:
        template.write_text("{{ messages[0].content }}")
    (found,) = [each for each in checkpoint_checks(copy, None) if each.name == "template"]
    assert found.status == "problem"
