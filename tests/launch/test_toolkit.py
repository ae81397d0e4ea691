"""The CUDA toolkit: found where the engine's compilers find it, completed for linkers, refused if releases differ."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from kimi_k2_serving.launch import lock, prove_cuda, toolkit
from kimi_k2_serving.launch.layout import checkout

HEADER = "#define CUDART_VERSION  13000\n"


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A toolkit as its wheels lay it out, whose nvcc compiles C++ and calls itself 13.0."""
    home = tmp_path / "cu13"
    write_program(
        home / "bin" / "nvcc",
        'if [ "$1" = --version ]; then echo "Cuda compilation tools, release 13.0, V13.0.88"; exit; fi\n'
        "for word; do case $last in -o) out=$word;; esac; last=$word; done\n"
        'echo "int launch() { return 0; }" | c++ -fPIC -x c++ -c - -o "$out"',
    )
    (home / "include").mkdir()
    (home / "include" / "cuda_runtime_api.h").write_text(HEADER)
    (home / "lib").mkdir()
    command = ["c++", "-shared", "-x", "c++", "-", "-o", str(home / "lib" / "libcudart.so.13")]
    subprocess.run(command, input="int runtime;", text=True, check=True)
    return home


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"CUDA_HOME": "/a", "CUDA_PATH": "/b"}, "/a"),
        ({"CUDA_HOME": "", "CUDA_PATH": "/b"}, "/b"),
        ({"PATH": "/nowhere"}, "/usr/local/cuda"),
    ],
)
def test_it_is_found_as_the_compilers_of_kernels_find_it(environ: dict[str, str], found: str) -> None:
    assert toolkit.find_toolkit(environ) == Path(found)


def test_without_a_name_it_is_the_first_nvcc_on_the_path(home: Path) -> None:
    assert toolkit.find_toolkit({"PATH": f"/nowhere:{home / 'bin'}"}) == home


def test_wheels_are_completed_for_linkers_once(home: Path) -> None:
    assert toolkit.problems_of(home, "13.0")
    toolkit.complete(home)
    assert toolkit.problems_of(home, "13.0") == []
    stub = home / "lib64" / "stubs" / "libcuda.so"
    made = stub.stat().st_mtime_ns
    toolkit.complete(home)
    assert stub.stat().st_mtime_ns == made
    assert (home / "lib64" / "libcudart.so").resolve() == home / "lib" / "libcudart.so.13"


def test_a_compiler_of_another_release_than_torch_is_refused(home: Path) -> None:
    toolkit.complete(home)
    (problem,) = toolkit.problems_of(home, "13.1")
    assert "nvcc is of release 13.0, torch of 13.1" in problem


def test_headers_of_another_release_than_the_compiler_are_refused(home: Path) -> None:
    toolkit.complete(home)
    (home / "include" / "cuda_runtime_api.h").write_text(HEADER.replace("13000", "13040"))
    (problem,) = toolkit.problems_of(home, "13.0")
    assert "the runtime's headers of 13.4" in problem
    (home / "include" / "cuda_runtime_api.h").unlink()
    assert "headers of None" in toolkit.problems_of(home, "13.0")[0]


def test_a_file_that_does_not_compile_is_a_problem_with_the_compiler_s_error(home: Path) -> None:
    toolkit.complete(home)
    write_program(
        home / "bin" / "nvcc",
        'if [ "$1" = --version ]; then echo "release 13.0, V13"; exit; fi\necho "x.h:41: error: incompatible"; exit 1',
    )
    (problem,) = toolkit.problems_of(home, "13.0")
    assert "x.h:41: error: incompatible" in problem


def test_a_directory_without_nvcc_is_a_problem(tmp_path: Path) -> None:
    (problem,) = toolkit.problems_of(tmp_path, "13.0")
    assert "no bin/nvcc that runs" in problem


def test_a_torch_without_cuda_is_told_to_name_a_lock(capsys: pytest.CaptureFixture[str]) -> None:
    assert prove_cuda.main([]) == 1
    assert "use --lock FILE here" in capsys.readouterr().err


def test_the_toolkit_of_the_lock_is_of_the_release_of_its_torch() -> None:
    """scripts/prove-cuda compiles with it; this test only reads the pins."""
    text = (checkout().requirements / "serve-gpu.txt").read_text(encoding="utf-8")
    pins = {pin.name: pin.version for pin in lock.read_pins(text)}
    release = ".".join(pins[prove_cuda.RELEASE_OF_TORCH].split(".")[:2])
    assert {name: pins[name] for name in prove_cuda.WHEELS if not pins[name].startswith(f"{release}.")} == {}
