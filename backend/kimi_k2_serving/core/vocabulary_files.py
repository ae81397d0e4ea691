"""Reads the files of a checkpoint directory that describe its tokens. No code of the checkpoint is run.

`tiktoken.model` has a line per token: its bytes in base64, and its rank, which is its id. `tokenizer_config.json` names
the ids above the ranks; an id without a name gets `<|reserved_token_{id}|>`. `config.json`, if present, states how many
ids the model has in all.
"""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from binascii import a2b_base64
from dataclasses import dataclass
from pathlib import Path

from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.core.messages import Json

RANKS = "tiktoken.model"
NAMES = "tokenizer_config.json"
MODEL = "config.json"
CODE = "tokenization_kimi.py"


@dataclass(frozen=True, slots=True)
class VocabularyFiles:
    """`tokens[id]` is an ordinary token's bytes; `controls` names every id from len(tokens) up, in order of id."""

    tokens: tuple[bytes, ...]
    controls: dict[str, int]
    sort_tool_keys: bool


def read_vocabulary(checkpoint: Path) -> VocabularyFiles:
    """Read the files. Raises NotFound for a missing, InvalidValue for a malformed one; `field` is the file's name."""
    tokens = _tokens(_read(checkpoint, RANKS))
    names = _names(_read(checkpoint, NAMES))
    if names and min(names) < len(tokens):
        raise InvalidValue(f"names an id that {RANKS} uses for an ordinary token", field=NAMES)
    size = max(len(tokens), *(identity + 1 for identity in names), _model_size(checkpoint))
    controls = {names.get(i, f"<|reserved_token_{i}|>"): i for i in range(len(tokens), size)}
    if len(controls) != size - len(tokens):
        raise InvalidValue("gives the same name to two ids", field=NAMES)
    code = checkpoint / CODE
    sort = code.is_file() and b"deep_sort_dict" in code.read_bytes()
    return VocabularyFiles(tokens, controls, sort)


def _read(checkpoint: Path, name: str) -> bytes:
    try:
        return (checkpoint / name).read_bytes()
    except OSError:
        raise NotFound("cannot be read; name a directory that holds this file of the checkpoint", field=name) from None


def _tokens(data: bytes) -> tuple[bytes, ...]:
    """Token bytes by rank. The ranks must be 0 to n - 1; every rank and every token must occur once."""
    lines = data.splitlines()
    try:
        ranked = {int(rank): a2b_base64(token) for token, rank in map(bytes.split, lines)}
    except (ValueError, Base64Error):
        raise InvalidValue("has a line that is not a base64 token and its rank", field=RANKS) from None
    tokens = tuple(ranked[rank] for rank in range(len(ranked)) if rank in ranked)
    if not tokens or len(tokens) != len(lines) or len(set(tokens)) != len(lines):
        raise InvalidValue("must have every rank from 0 up once, and every token once", field=RANKS)
    return tokens


def _names(data: bytes) -> dict[int, str]:
    """Id -> name of the control tokens in the table `added_tokens_decoder`."""
    table = _object(data, NAMES).get("added_tokens_decoder")
    names = {}
    for identity, entry in table.items() if isinstance(table, dict) else ():
        name = entry.get("content") if isinstance(entry, dict) else None
        if not identity.isdecimal() or not isinstance(name, str):
            raise InvalidValue("added_tokens_decoder must map ids to objects with a string content", field=NAMES)
        names[int(identity)] = name
    return names


def _model_size(checkpoint: Path) -> int:
    if not (checkpoint / MODEL).is_file():
        return 0
    size = _object(_read(checkpoint, MODEL), MODEL).get("vocab_size", 0)
    if not isinstance(size, int):
        raise InvalidValue("vocab_size must be an integer", field=MODEL)
    return size


def _object(data: bytes, name: str) -> dict[str, Json]:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InvalidValue("is not a JSON object", field=name)
    return value
