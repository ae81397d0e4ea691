"""Builds the twin's checkpoint: one shard for each layer and an index, as published; about 700 MB in a quarter minute.

The vocabulary is K2's own where a directory of its published files is given. Otherwise it has as many ranks: the
demo's, then pairs and triples of bytes. The control tokens have K2's names and ids in both.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kimi_k2_serving.demo import random_weights, vocabulary
from kimi_k2_serving.demo.random_weights import WeightTensor
from tests.twin.shape import RANKS, STOP, TWIN, config

SHARDS = TWIN.layers + 1
INDEX = "model.safetensors.index.json"


def build(directory: Path, demo: Path, published: Path | None = None) -> int:
    """Fill the directory, and return the bytes of all weights. `demo`: the demo checkpoint, for its vocabulary."""
    directory.mkdir(parents=True)
    write_json(directory / "config.json", config())
    write_json(directory / "generation_config.json", {"eos_token_id": STOP, "temperature": 0.6})
    if published is not None:
        for name in ("tiktoken.model", "tokenizer_config.json", "chat_template.jinja"):
            if (published / name).is_file():
                shutil.copyfile(published / name, directory / name)
    else:
        lines = (demo / "tiktoken.model").read_bytes().splitlines(keepends=True)
        (directory / "tiktoken.model").write_bytes(filled(lines))
        write_json(directory / "tokenizer_config.json", names())
    return write_shards(directory)


def filled(lines: list[bytes]) -> bytes:
    """The demo's ranks, and further ones up to K2's number."""
    tokens = [base64.b64decode(line.split()[0]) for line in lines]
    known = set(tokens)
    for length in (2, 3):
        for values in itertools.product(range(256), repeat=length):
            if len(tokens) == RANKS:
                return vocabulary.tiktoken_model(tokens)
            if (token := bytes(values)) not in known:
                known.add(token)
                tokens.append(token)
    raise AssertionError("there are enough triples of bytes")


def names() -> dict[str, Any]:
    """The demo's tokenizer_config.json, with K2's ids."""
    settings: dict[str, Any] = vocabulary.tokenizer_config(TWIN.context)
    named = settings["added_tokens_decoder"]
    return settings | {
        "added_tokens_decoder": {str(int(key) - vocabulary.RANKS + RANKS): named[key] for key in named},
        "tokenizer_class": "TikTokenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
    }


def write_shards(directory: Path) -> int:
    where: dict[str, str] = {}
    total = 0
    for number, part in enumerate(parts(random_weights.tensors(TWIN)), 1):
        name = f"model-{number:05}-of-{SHARDS:06}.safetensors"
        random_weights.write_weights(directory / name, part, seed=random_weights.SEED + number)
        where |= dict.fromkeys((each.name for each in part), name)
        total += sum(size(each) for each in part)
    write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return total


def parts(tensors: Iterator[WeightTensor]) -> Iterator[list[WeightTensor]]:
    """One for each layer, and one for what no layer has."""
    rest: list[WeightTensor] = []
    for key, group in itertools.groupby(tensors, lambda each: each.name.split(".")[1:3]):
        if key[0] == "layers":
            yield list(group)
        else:
            rest += group
    yield rest


def size(tensor: WeightTensor) -> int:
    count = 1
    for side in tensor.shape:
        count *= side
    return count * (4 if tensor.dtype == "F32" else 2)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
