"""A machine that can't run the server is refused before anything is installed or started."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kimi_k2_serving.launch import cli, preflight
from kimi_k2_serving.launch.layout import Layout, checkout
from kimi_k2_serving.launch.machine import Gpu, Machine, libpython, observe, port_is_free
from kimi_k2_serving.launch.refusal import Refusal

Check = Callable[..., list[str]]


@pytest.fixture
def check(machine: Machine, layout: Layout) -> Check:
    def run(*argv: str, installed: bool = False, free: bool = True, **lacks: Any) -> list[str]:
        return preflight.check_machine(
            cli.parse_options(argv),
            replace(machine, **lacks),
            layout,
            installed=installed,
            port_is_free=lambda host, port: free or port != 8001,
        )

    return run


def test_a_suitable_machine_gets_no_warning(check: Check) -> None:
    assert check() == []


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ({"python": (3, 13)}, "serve: Python 3.13; the pinned stack is for 3.11 and 3.12; install python3.12"),
        ({"architecture": "aarch64"}, "x86_64"),
        ({"cpu_flags": frozenset({"sse4_2"})}, "no AVX2"),
        ({"glibc": (2, 31)}, "glibc 2.31; Triton's Python stub needs 2.35"),
        ({"glibc": (0, 0)}, "no glibc"),
        ({"libpython": None}, "apt-get install libpython3.11"),
        ({"free_disk": 10**9}, "1.0 GB free disk"),
    ],
)
def test_what_the_machine_lacks_is_named(check: Check, lacks: dict[str, Any], says: str) -> None:
    with pytest.raises(Refusal) as caught:
        check(**lacks)
    assert says in str(caught.value)


def test_the_disk_matters_only_for_an_installation(check: Check) -> None:
    assert check(installed=True, free_disk=10**9) == []


def test_a_port_in_use_is_refused_with_its_flag(check: Check) -> None:
    with pytest.raises(Refusal) as caught:
        check(free=False)
    assert str(caught.value) == (
        "serve: --grpc-port 8001; another process uses this port at 127.0.0.1; choose another with --grpc-port PORT"
    )


@pytest.mark.parametrize("flag", ["--prepare-only", "--print-command"])
def test_a_port_in_use_does_not_matter_if_nothing_is_started(check: Check, flag: str) -> None:
    assert check(flag, free=False) == []


def test_a_listening_socket_makes_a_port_busy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not port_is_free("127.0.0.1", port)
    assert port_is_free("127.0.0.1", port)


def test_a_directory_that_is_no_checkpoint_is_refused(check: Check, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"the directory has no config\.json"):
        check("--checkpoint", str(tmp_path))


def test_an_unknown_preset_is_answered_with_the_known_ones(check: Check) -> None:
    with pytest.raises(Refusal, match="one of: demo, demo-2-nodes, demo-random"):
        check("--preset", "nonsense")


def test_a_preset_for_gpus_needs_a_checkpoint_before_anything_is_installed(check: Check, layout: Layout) -> None:
    layout.presets.mkdir(parents=True, exist_ok=True)
    (layout.presets / "b200-8.yaml").touch()
    with pytest.raises(Refusal, match="this preset needs a real checkpoint; add --checkpoint DIR"):
        check("--preset", "b200-8")


def test_a_key_file_must_exist_be_private_and_not_empty(check: Check, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    argv = ("--host", "0.0.0.0", "--api-key-file", str(keys))
    with pytest.raises(Refusal, match="no such file"):
        check(*argv)
    keys.touch(mode=0o644)
    with pytest.raises(Refusal, match="chmod 600"):
        check(*argv)
    keys.chmod(0o600)
    with pytest.raises(Refusal, match="the file has no key"):
        check(*argv)
    keys.write_bytes(b"\xff")
    with pytest.raises(Refusal, match="cannot be read: it is not UTF-8 text"):
        check(*argv)
    keys.write_text("secret\n")
    assert check(*argv) == []
    (warning,) = check(*argv, "--insecure")
    assert "Triton's own ports have no authentication" in warning


H100 = Gpu("NVIDIA H100 80GB HBM3", 81_559 * 2**20)
H200 = Gpu("NVIDIA H200", 143_771 * 2**20)
B200 = Gpu("NVIDIA B200", 183_359 * 2**20)
GB200 = Gpu("NVIDIA GB200", 189_471 * 2**20)


@pytest.mark.parametrize(
    ("gpus", "preset", "says"),
    [
        ((B200,) * 8, "b200-8", "8 x NVIDIA B200, 179 GiB each: preset b200-8 fits, b200-8-throughput fits"),
        ((B200,) * 8, "b200-8", "b200-8-long fits"),
        ((H200,) * 8, "h200-8", "preset h200-8 fits, h200-16 fits on 2 such machines"),
        ((H100,) * 8, "h100-16", "preset h100-16 fits on 2 such machines"),
        ((GB200,) * 4, "gb200-16", "preset gb200-16 fits on 4 such machines"),
        ((H100,) * 4, "NAME", "less than Kimi K2 needs"),
        ((), "NAME", "nvidia-smi gives no information"),
    ],
)
def test_a_checkpoint_on_a_gpu_host_is_told_the_preset_and_the_container(
    check: Check, tmp_path: Path, gpus: tuple[Gpu, ...], preset: str, says: str
) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(Refusal) as caught:
        check("--checkpoint", str(tmp_path), nvidia=True, gpus=gpus)
    message = str(caught.value)
    assert says in message
    assert "docker run --gpus all" in message
    assert f"-e KIMI_K2_PRESET={preset} " in message
    assert "--cpu" in message


def test_every_suggested_preset_exists() -> None:
    known = {path.stem for path in checkout().presets.glob("*.yaml")}
    assert {name for name, *_ in preflight.GPU_PRESETS} == known - set(cli.DEMO_PRESETS)
    assert set(cli.DEMO_PRESETS) <= known


def test_cpu_forces_the_cpu_on_a_gpu_host(check: Check) -> None:
    assert check("--cpu", nvidia=True, gpus=(B200,) * 8) == []


@pytest.mark.parametrize("gpus", [(Gpu("NVIDIA T4", 15_360 * 2**20),), (B200,) * 8, ()])
def test_without_a_checkpoint_a_gpu_host_serves_the_demo_on_its_cpu_and_says_so(
    check: Check, gpus: tuple[Gpu, ...]
) -> None:
    assert check(nvidia=True, gpus=gpus) == [
        "serve: notice: this machine's NVIDIA GPU is not used: the demo model runs on the CPU"
    ]
    assert cli.parse_options([]).on_cpu
    assert not cli.parse_options(["--checkpoint", "/c"]).on_cpu


def test_a_gpu_is_seen_by_its_driver_or_its_device(tmp_path: Path) -> None:
    assert not observe(tmp_path, proc=tmp_path, dev=tmp_path).nvidia
    (tmp_path / "nvidia0").touch()
    assert observe(tmp_path, proc=tmp_path, dev=tmp_path).nvidia


def test_cpu_flags_are_read_from_the_first_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2\n\nprocessor : 1\nflags : fpu\n")
    assert observe(tmp_path, proc=tmp_path, dev=tmp_path).cpu_flags == {"fpu", "avx2"}


def test_the_library_of_this_python_is_a_file() -> None:
    library = libpython()
    assert library is None or (library.is_file() and ".so" in library.name)
