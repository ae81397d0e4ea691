"""The CUDA toolkit that compiles kernels while the engine runs: finds it, adds what it lacks, and checks whether it
compiles.

SGLang, flashinfer, tvm-ffi and DeepGEMM compile with the toolkit of CUDA_HOME, else with the one of the first `nvcc` on
PATH, else with /usr/local/cuda. The lock's wheels form a toolkit in site-packages/nvidia/cu13. Its files are laid out
for loading, not for linking, so `complete` adds the files that linkers look for. `problems_of` compiles and links one
file as flashinfer does. No GPU is needed. Standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# The architectures of Hopper and of Blackwell.
ARCHITECTURES = ("90a", "100a")
COMPILE_SECONDS = 300
# CCCL's first header compares the compiler with the toolkit's headers. The rest is a small kernel with CUB.
SOURCE = """
#include <cub/block/block_reduce.cuh>
#include <cuda.h>
#include <cuda_runtime.h>
__global__ void sum(const float* in, float* out) {
  using Reduce = cub::BlockReduce<float, 128>;
  __shared__ typename Reduce::TempStorage storage;
  float total = Reduce(storage).Sum(in[threadIdx.x]);
  if (threadIdx.x == 0) *out = total;
}
extern "C" int launch(const float* in, float* out) {
  sum<<<1, 128>>>(in, out);
  int devices = 0;
  cuDeviceGetCount(&devices);
  return static_cast<int>(cudaGetLastError()) + devices;
}
"""
# The driver's library comes from the host when a container starts, so at build time a stub replaces it.
DRIVER_STUB = 'extern "C" int cuDeviceGetCount(int* count) { *count = 0; return 100; }\n'


def find_toolkit(environ: Mapping[str, str]) -> Path:
    """The directory that the compilers of kernels use with this environment; it may not exist."""
    if named := environ.get("CUDA_HOME") or environ.get("CUDA_PATH"):
        return Path(named)
    found = shutil.which("nvcc", path=environ.get("PATH"))
    return Path(found).parent.parent if found else Path("/usr/local/cuda")


def complete(home: Path, compiler: str = "c++") -> None:
    """Add lib64, libcudart.so and a stub of the driver's library. A second call does nothing."""
    libraries = home / "lib64"
    if not libraries.exists():
        libraries.symlink_to("lib")
    for versioned in sorted(libraries.glob("lib*.so.[0-9]*")):
        short = libraries / f"{versioned.name.split('.so.')[0]}.so"
        if not short.exists():
            short.symlink_to(versioned.name)
    stub = libraries / "stubs" / "libcuda.so"
    if not stub.exists():
        stub.parent.mkdir(exist_ok=True)
        command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c++", "-", "-o", str(stub)]
        subprocess.run(command, input=DRIVER_STUB, text=True, check=True)


def nvcc_release(home: Path) -> str | None:
    """`13.0`, or None if there is no nvcc that runs."""
    try:
        answer = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    _, found, rest = answer.stdout.partition("release ")
    return rest.split(",")[0].strip() if found else None


def headers_release(home: Path) -> str | None:
    """The release of the runtime's headers, or None if they are missing."""
    try:
        text = (home / "include" / "cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        words = line.split()
        if words[:2] == ["#define", "CUDART_VERSION"] and words[2].isdecimal():
            return f"{int(words[2]) // 1000}.{int(words[2]) % 1000 // 10}"
    return None


def problems_of(home: Path, torch_release: str, vendored: Sequence[Path] = ()) -> list[str]:
    """What is wrong with the toolkit in `home`, one sentence each; none if it compiles and links. `torch_release` is
    torch.version.cuda. `vendored`: include directories that precede the toolkit's, as flashinfer's own CCCL does.
    """
    release = nvcc_release(home)
    if release is None:
        return [f"{home} has no bin/nvcc that runs: install the lock's wheels and set CUDA_HOME to their nvidia/cu13"]
    problems = []
    if release != torch_release:
        problems.append(
            f"nvcc is of release {release}, torch of {torch_release}: pin nvcc, crt, nvvm and cccl to torch's"
        )
    if (headers := headers_release(home)) != release:
        problems.append(f"nvcc is of release {release}, the runtime's headers of {headers}: CCCL refuses the pair")
    output = compile_one(home, vendored)
    return [*problems, f"compiling a file that includes CCCL failed: {output}"] if output else problems


def compile_one(home: Path, vendored: Sequence[Path] = ()) -> str:
    """Compile and link SOURCE; "" if that works, else what the compiler wrote last."""
    includes = [f"-I{path}" for path in vendored]
    includes += ["-isystem", str(home / "include"), "-isystem", str(home / "include" / "cccl")]
    targets = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in ARCHITECTURES]
    libraries = [f"-L{home / 'lib64'}", f"-L{home / 'lib64' / 'stubs'}", "-lcudart", "-lcuda"]
    with tempfile.TemporaryDirectory() as folder:
        source, unit, library = (str(Path(folder) / name) for name in ("proof.cu", "proof.o", "proof.so"))
        Path(source).write_text(SOURCE, encoding="ascii")
        compiling = [str(home / "bin" / "nvcc"), "-std=c++17", "-Xcompiler", "-fPIC", *targets, *includes]
        return run([*compiling, "-c", source, "-o", unit]) or run(["c++", "-shared", unit, *libraries, "-o", library])


def run(command: Sequence[str]) -> str:
    """ "" if the command succeeds, else the end of what it wrote."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} did not run to its end: {type(error).__name__}"
    if done.returncode == 0:
        return ""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line] or ["no error was written"]
    return " ".join(lines[0].split())
