"""The lock: every line is a hashed pin, every needed package is locked, and no line names an address or CUDA."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from kimi_k2_serving.launch import lock
from kimi_k2_serving.launch.layout import checkout

REQUIREMENTS = checkout().requirements

# Requirements of locked packages that are not locked, because nothing on the serving path imports them.
LEFT_OUT = {
    "hf-xet": frozenset({"huggingface-hub"}),
    "importlib-metadata": frozenset({"nvidia-pytriton"}),
    "sh": frozenset({"nvidia-pytriton"}),
    "typing-inspect": frozenset({"nvidia-pytriton"}),
    "wrapt": frozenset({"nvidia-pytriton"}),
}
# SGLang's own list names CUDA kernels, model hubs, audio and images. The tests that start the engine check it instead.
UNCHECKED = frozenset({"sglang"})


def pins(name: str) -> dict[str, lock.Pin]:
    return {pin.name: pin for pin in lock.read_pins((REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", lock.NAMES)
def test_every_line_is_a_pin_with_sha256_hashes(name: str) -> None:
    found = pins(name)
    assert found
    for pin in found.values():
        assert Version(pin.version)
        assert canonicalize_name(pin.name) == pin.name
        assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in pin.hashes)
    assert lock.write_pins(found.values()) == (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", lock.NAMES)
def test_no_lock_names_an_address(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "index" not in text


@pytest.mark.parametrize("name", lock.NAMES)
def test_a_lock_holds_exactly_the_versions_of_its_list(name: str) -> None:
    lines = (REQUIREMENTS / f"{name}.in").read_text(encoding="utf-8").splitlines()
    wanted = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if not line.startswith("#")}
    if name == "serve-cpu":
        wanted["torch"] = lock.TORCH_CPU[1]
    assert {pin.name: pin.version for pin in pins(name).values()} == wanted


def test_the_cpu_lock_has_a_cpu_torch_and_no_cuda() -> None:
    found = pins("serve-cpu")
    assert found["torch"].version.endswith("+cpu")
    assert [name for name in found if name.startswith(("nvidia-", "cuda-"))] == ["nvidia-ml-py", "nvidia-pytriton"]


def test_numpy_is_one_that_the_stub_can_read() -> None:
    assert Version(pins("serve-cpu")["numpy"].version) < Version("2")


def test_the_project_and_its_lock_agree() -> None:
    found = pins("serve-cpu")
    ours = [Requirement(line) for line in metadata.requires("kimi-k2-triton") or ()]
    wanted = [each for each in ours if each.marker is None or each.marker.evaluate({"extra": "serve"})]
    assert len(wanted) >= 10
    for each in wanted:
        assert each.specifier.contains(found[canonicalize_name(each.name)].version), each


def test_what_a_locked_package_needs_is_locked_too() -> None:
    found = pins("serve-cpu") | pins("test")
    left_out = set()
    for name in sorted(found.keys() - UNCHECKED):
        assert Version(metadata.version(name)).public == Version(found[name].version).public, f"{name} installed"
        for need in map(Requirement, metadata.requires(name) or ()):
            if need.marker is not None and not need.marker.evaluate({"extra": ""}):
                continue
            needed = canonicalize_name(need.name)
            if needed in LEFT_OUT:
                assert name in LEFT_OUT[needed]
                left_out.add(needed)
                continue
            assert needed in found, f"{name} needs {need}"
            assert need.specifier.contains(found[needed].version, prereleases=True), f"{name} needs {need}"
    assert left_out == LEFT_OUT.keys()


@pytest.mark.parametrize(
    ("wheel", "usable"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-py2.py3-none-any.whl", True),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp39-abi3-manylinux2014_x86_64.whl", True),
        ("a-1-cp312-abi3-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp313-abi3-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp313-cp313-manylinux_2_17_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_38_x86_64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_17_aarch64.whl", False),
        ("a-1-cp311-cp311-win_amd64.whl", False),
        ("a-1-cp311-cp311-macosx_11_0_arm64.whl", False),
    ],
)
def test_only_files_that_can_be_installed_are_locked(wheel: str, usable: bool) -> None:
    assert lock.usable(wheel) is usable


@pytest.mark.parametrize(
    "line", ["numpy", "numpy==1.26.4", "numpy>=1 --hash=sha256:00", "-r other.txt", "numpy==1 --hash=md5:0"]
)
def test_a_line_without_a_hash_is_no_lock(line: str) -> None:
    with pytest.raises(ValueError, match="not a hashed pin"):
        lock.read_pins(line)
