"""Reads a checkpoint directory, and makes a tokenizer directory for it that needs no remote code.

The checkpoint is only read: no code of it is run (only `template_probe` does that), and nothing is written into it.
Derived files go into a cache directory named by the hash of their sources. An entry is renamed into place when it is
complete, so processes may share a cache.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_k2_serving.core import render
from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.core.vocabulary_files import read_vocabulary
from kimi_k2_serving.engine import tokenizer_json
from kimi_k2_serving.engine.relatives import name_relative

MODEL = "config.json"
GENERATION = "generation_config.json"
RANKS = "tiktoken.model"
SETTINGS = "tokenizer_config.json"
CONVERTED = "tokenizer.json"

# K2 keeps DeepSeek-V3's architecture name; only the control tokens tell the two apart.
K2_ARCHITECTURES = ("DeepseekV3ForCausalLM", "KimiK2ForCausalLM")
K2_CONTROLS = (
    "[EOS]",
    *(
        control.name
        for control in (
            render.SYSTEM,
            render.USER,
            render.ASSISTANT,
            render.MIDDLE,
            render.END,
            render.SECTION_BEGIN,
            render.SECTION_END,
            render.CALL_BEGIN,
            render.ARGUMENT_BEGIN,
            render.CALL_END,
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as its small files describe it. Numbers that config.json does not give are 0.

    context_length: in tokens; why_not_k2: the reason, "" for a K2 checkpoint; tokenizer_hash: SHA-256, hex, of all
    files that its tokenizer depends on.
    """

    path: Path
    why_not_k2: str
    context_length: int
    vocab_size: int
    has_tokenizer_json: bool
    tokenizer_hash: str

    @property
    def is_k2(self) -> bool:
        return not self.why_not_k2


def inspect_checkpoint(path: Path) -> Checkpoint:
    """Describe the checkpoint directory of any model.

    Raises NotFound if it or its config.json is missing, InvalidValue if a file cannot be understood.
    """
    if not path.is_dir():
        raise NotFound("no such directory; name the directory of a checkpoint", field="checkpoint")
    if not (path / MODEL).is_file():
        raise NotFound("the directory has no config.json; name the directory of a checkpoint", field="checkpoint")
    config = _read_object(path / MODEL)
    # A multimodal model describes its language part in `text_config`.
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    return Checkpoint(
        path=path,
        why_not_k2=_why_not_k2(path, config),
        context_length=_count(text, "max_position_embeddings"),
        vocab_size=_count(text, "vocab_size"),
        has_tokenizer_json=(path / CONVERTED).is_file(),
        tokenizer_hash=_tokenizer_hash(path),
    )


def require_k2(checkpoint: Checkpoint) -> None:
    """Raise InvalidValue that says what is missing, unless this is a Kimi K2 checkpoint."""
    if not checkpoint.is_k2:
        raise InvalidValue(f"not a Kimi K2 checkpoint: {checkpoint.why_not_k2}", field="checkpoint")


def tokenizer_directory(checkpoint: Checkpoint, cache: Path) -> Path:
    """A directory with a tokenizer that transformers loads with `trust_remote_code` off.

    It is the checkpoint itself if that already has such a tokenizer, else an entry of `cache`, made from
    `tiktoken.model` at the first call. Every call compares it with `tiktoken.model` on a sample. Raises InvalidValue or
    NotFound for files that cannot be read, Internal if the two tokenizers disagree.
    """
    if not (checkpoint.path / RANKS).is_file():
        return checkpoint.path  # not a K2 checkpoint, so there is nothing to convert or to compare with
    settings = _read_object(checkpoint.path / SETTINGS)
    vocabulary = Vocabulary.load(checkpoint.path)
    directory = checkpoint.path
    if not checkpoint.has_tokenizer_json or "auto_map" in settings:
        directory = cache / "tokenizers" / checkpoint.tokenizer_hash
        if not (directory / CONVERTED).is_file():
            _convert(checkpoint, settings, vocabulary, directory)
            return directory
    tokenizer_json.compare((directory / CONVERTED).read_bytes(), vocabulary)
    return directory


def _convert(checkpoint: Checkpoint, settings: dict[str, Any], vocabulary: Vocabulary, target: Path) -> None:
    document = tokenizer_json.convert_ranks(read_vocabulary(checkpoint.path), settings)
    tokenizer_json.compare(document, vocabulary)
    kept = {key: value for key, value in settings.items() if key != "auto_map"}
    kept |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": checkpoint.context_length}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as workspace:
        entry = Path(workspace, "entry")
        entry.mkdir()
        (entry / CONVERTED).write_bytes(document)
        (entry / SETTINGS).write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if (checkpoint.path / GENERATION).is_file():
            shutil.copyfile(checkpoint.path / GENERATION, entry / GENERATION)
        try:
            entry.rename(target)
        except OSError:
            # Another process made the same entry first.
            if not (target / CONVERTED).is_file():
                raise


def _why_not_k2(path: Path, config: dict[str, Any]) -> str:
    architecture = _first_name(config.get("architectures"))
    if relative := name_relative(path, architecture, config.get("model_type")):
        return relative
    if architecture not in K2_ARCHITECTURES:
        return f"its architecture is not {K2_ARCHITECTURES[0]}"
    for name in (RANKS, SETTINGS):
        if not (path / name).is_file():
            return f"it has no {name}"
    named = read_vocabulary(path).controls
    missing = [name for name in K2_CONTROLS if name not in named]
    return f"its {SETTINGS} does not name {', '.join(missing)}" if missing else ""


def _tokenizer_hash(path: Path) -> str:
    """The hash of all sources of the tokenizer. It includes the converter's code, so a new version of that makes a new
    entry.
    """
    digest = hashlib.sha256(Path(tokenizer_json.__file__).read_bytes())
    for name in (RANKS, SETTINGS, MODEL, GENERATION):
        if (path / name).is_file():
            digest.update(name.encode() + b"\0" + hashlib.sha256((path / name).read_bytes()).digest())
    return digest.hexdigest()


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError:
        raise NotFound("cannot be read; check the checkpoint's permissions", field=path.name) from None
    except ValueError:
        raise InvalidValue("is not valid JSON; copy the file again", field=path.name) from None
    if not isinstance(value, dict):
        raise InvalidValue("is not a JSON object; copy the file again", field=path.name)
    return value


def _first_name(architectures: object) -> str:
    return (
        architectures[0]
        if isinstance(architectures, list) and architectures and isinstance(architectures[0], str)
        else ""
    )


def _count(config: Any, key: str) -> int:
    value = 0 if config.get(key) is None else config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidValue(f"{key} must be a whole number, at least 0", field=MODEL)
    return value
