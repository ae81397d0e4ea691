"""Builds a demo checkpoint, completely or not at all, and only if it is missing or outdated.

There are two: the trained one, whose weights and vocabulary the repository ships (`trained/`), and the random one, the
adversary of parser and grammar tests.

The directory has a stamp: a hash of this package's sources and of each file written. If the sources and the files still
match it, nothing is done. Otherwise a new directory is built beside the old one and renamed into its place, so a reader
sees either the old files or the new ones. A directory that this builder did not make is never touched.
"""

from __future__ import annotations

import enum
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.vocabulary_files import read_vocabulary
from kimi_k2_serving.demo import random_weights, vocabulary
from kimi_k2_serving.demo.architecture import TRAINED, Architecture, config, generation_config
from kimi_k2_serving.engine import tokenizer_json

STAMP = "demo.json"
SHIPPED = ("model.safetensors", "tiktoken.model")

Report = Callable[[str], None]


class DemoWeights(enum.Enum):
    """Which of the two checkpoints."""

    TRAINED = "trained"
    RANDOM = "random"


def build_checkpoint(output: Path, weights: DemoWeights, *, force: bool = False, report: Report = print) -> bool:
    """Make `output` a demo checkpoint with these weights and return whether it was built.

    `force` rebuilds a checkpoint that is up to date. Raises InvalidValue if `output` contains anything else.
    """
    output = output.resolve()
    if is_current(output, weights) and not force:
        report("demo checkpoint: up to date")
        return False
    _refuse_foreign(output)
    started = time.monotonic()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as workspace:
        built = Path(workspace, "new")
        built.mkdir()
        _write(built, weights, report)
        size = sum(file.stat().st_size for file in built.iterdir())
        _put_in_place(built, output, Path(workspace, "old"), weights)
    report(f"demo checkpoint: {size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")
    return True


def is_current(output: Path, weights: DemoWeights) -> bool:
    """Whether `output` was written by these sources, with these weights, and no file in it has changed since."""
    try:
        stamp = json.loads((output / STAMP).read_bytes())
        whole = all(_sha256(output / name) == expected for name, expected in stamp["files"].items())
        return whole and stamp["recipe"] == recipe(weights)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def recipe(weights: DemoWeights) -> str:
    """The hash of all sources of the checkpoint: the shipped files or the corpus, and the code that makes files."""
    package = resources.files("kimi_k2_serving")
    sources = [file for file in package.joinpath("demo").iterdir() if file.name.endswith((".py", ".txt"))]
    if weights is DemoWeights.TRAINED:
        sources += [shipped(name) for name in SHIPPED]
    digest = hashlib.sha256(package.joinpath("engine", "tokenizer_json.py").read_bytes())
    for source in sorted(sources, key=lambda file: file.name):
        digest.update(source.name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


def shipped(name: str) -> Traversable:
    """A file of the trained model in this repository."""
    return resources.files("kimi_k2_serving").joinpath("demo", "trained", name)


def _write(directory: Path, weights: DemoWeights, report: Report) -> None:
    text = vocabulary.corpus()
    match weights:
        case DemoWeights.TRAINED:
            shape = TRAINED
            report("[1/3] vocabulary: the trained model's")
            ranks = shipped("tiktoken.model").read_bytes()
        case DemoWeights.RANDOM:
            shape = Architecture()
            report(f"[1/3] vocabulary: training {vocabulary.RANKS} ranks on {len(text.encode()) // 1000} kB of text")
            ranks = vocabulary.tiktoken_model(vocabulary.train_vocabulary(text))
    settings = vocabulary.tokenizer_config(shape.context)
    (directory / "tiktoken.model").write_bytes(ranks)
    _write_json(directory / "tokenizer_config.json", settings)
    _write_json(directory / "config.json", config(shape))
    _write_json(directory / "generation_config.json", generation_config())

    document = tokenizer_json.convert_ranks(read_vocabulary(directory), settings)
    sample = (*tokenizer_json.SAMPLE, *text.splitlines())
    agreed = tokenizer_json.compare(document, Vocabulary.load(directory), sample)
    (directory / "tokenizer.json").write_bytes(document)
    report(f"[2/3] tokenizer.json: {agreed} of {len(sample)} lines encode as tiktoken does")

    match weights:
        case DemoWeights.TRAINED:
            (directory / "model.safetensors").write_bytes(shipped("model.safetensors").read_bytes())
            report("[3/3] weights: the trained model's")
        case DemoWeights.RANDOM:
            parameters = random_weights.write_weights(directory / "model.safetensors", random_weights.tensors(shape))
            report(f"[3/3] weights: {parameters / 1e6:.1f} million parameters, bfloat16, random")

    files = {file.name: _sha256(file) for file in sorted(directory.iterdir())}
    _write_json(directory / STAMP, {"recipe": recipe(weights), "files": files})


def _refuse_foreign(output: Path) -> None:
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not (output / STAMP).is_file()):
        raise InvalidValue("exists and is not a demo checkpoint; give a new directory", field="--output")


def _put_in_place(built: Path, output: Path, old: Path, weights: DemoWeights) -> None:
    """Rename `built` to `output`. If another builder was faster, keep its result, which is the same."""
    try:
        if output.exists():
            output.rename(old)
        built.rename(output)
    except OSError:
        if not is_current(output, weights):
            raise


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
