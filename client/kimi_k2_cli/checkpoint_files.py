"""Checks whether a checkpoint's files are complete, by the index and the headers, and by checksums if they are given.

A safetensors file begins with the length of its header, and the header says where the last tensor ends. So a truncated
file is found without reading all of it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from kimi_k2_cli.given_file import read_text
from kimi_k2_serving.core.errors import InvalidValue

INDEX = "model.safetensors.index.json"
LARGEST_HEADER = 100 * 2**20  # bytes; safetensors' own bound


def incomplete_files(directory: Path) -> list[str]:
    """One line for each weight file that is missing or truncated."""
    try:
        names = sorted(set(json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except FileNotFoundError:
        names = sorted(path.name for path in directory.glob("*.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{INDEX} can't be read"]
    if not names:
        return ["there is no *.safetensors"]
    return [f"{name} {problem}" for name in names if (problem := _problem(directory / str(name)))]


def _problem(path: Path) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER, size):
                return "has no header of safetensors"
            header = json.loads(file.read(length))
        end = max((each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"), default=0)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "can't be read"
    expected = 8 + length + end
    return "" if size == expected else f"has {size:,} bytes instead of {expected:,}"


def checksum_problems(directory: Path, sums: Path) -> list[str]:
    """One line for each file whose SHA-256 differs from `sums` (lines `HEX  NAME`). Raises InvalidValue."""
    lines = [line.split(maxsplit=1) for line in read_text(sums, "--checksums").splitlines() if line.strip()]
    problems = []
    for words in lines:
        if len(words) != 2 or len(words[0]) != 64:
            raise InvalidValue("a line is not `SHA256  NAME`, as sha256sum writes it", field="--checksums")
        digest, name = words[0].lower(), words[1].strip().lstrip("*")
        try:
            with (directory / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            problems.append(f"{name} can't be read")
            continue
        if found != digest:
            problems.append(f"{name} differs")
    return problems
