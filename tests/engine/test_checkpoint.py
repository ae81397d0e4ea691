from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from kimi_k2_serving.core.errors import Internal, InvalidValue, NotFound, ServingError
from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.engine import tokenizer_json
from kimi_k2_serving.engine.checkpoint import inspect_checkpoint, require_k2, tokenizer_directory
from tests.support.demo import demo
from tests.support.vocabulary import reference

__all__ = ["demo", "reference"]

# The published prompt for "hi" with the default system message (golden ids of the K2 format).
GREETING = "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>"
GREETING_IDS = [163594, 14062, 163601, 3900, 554, 24980, 72, 11, 519, 22572, 26626, 5232, 673, 30218, 10065, 22572, 13]


def edit(directory: Path, name: str, **changes: Any) -> None:
    path = directory / name
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def copy(demo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo, tmp_path / "checkpoint"))


@pytest.fixture
def published(copy: Path) -> Path:
    """The demo in the form that K2 is published in: no tokenizer.json, and code that would have to be run."""
    (copy / "tokenizer.json").unlink()
    auto_map = {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]}
    edit(copy, "tokenizer_config.json", tokenizer_class="TikTokenTokenizer", auto_map=auto_map)
    (copy / "tokenization_kimi.py").write_text("raise SystemExit('this code must not run')")
    return copy


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(directory.rglob("*"))}


def test_the_demo_is_described_by_its_files(demo: Path) -> None:
    found = inspect_checkpoint(demo)
    assert found.is_k2
    assert (found.context_length, found.vocab_size, found.has_tokenizer_json) == (32_768, 4_352, True)
    require_k2(found)


def test_a_missing_directory_and_a_missing_config_say_what_to_do(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(NotFound, match="name the directory of a checkpoint") as caught:
            inspect_checkpoint(path)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "\udcff"])
def test_a_config_that_is_no_json_object_is_refused_by_name(copy: Path, text: str) -> None:
    (copy / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidValue, match=r"config\.json"):
        inspect_checkpoint(copy)


@pytest.mark.parametrize("value", ["many", -1, 1.5, True])
def test_a_number_that_is_no_whole_number_is_refused(copy: Path, value: object) -> None:
    edit(copy, "config.json", max_position_embeddings=value)
    with pytest.raises(InvalidValue, match="max_position_embeddings"):
        inspect_checkpoint(copy)


def test_a_number_that_config_json_leaves_out_or_null_is_0(copy: Path) -> None:
    edit(copy, "config.json", max_position_embeddings=None)
    assert inspect_checkpoint(copy).context_length == 0


def test_another_familys_checkpoint_is_described_and_is_no_k2(copy: Path) -> None:
    edit(copy, "config.json", architectures=["LlamaForCausalLM"], model_type="llama")
    found = inspect_checkpoint(copy)
    assert (found.is_k2, found.context_length) == (False, 32_768)
    with pytest.raises(InvalidValue, match="not a Kimi K2 checkpoint: its architecture"):
        require_k2(found)


@pytest.mark.parametrize("name", ["tiktoken.model", "tokenizer_config.json"])
def test_without_its_tokenizer_files_it_is_no_k2(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert inspect_checkpoint(copy).why_not_k2 == f"it has no {name}"


def test_deepseek_lacks_the_control_tokens_of_k2(copy: Path) -> None:
    tokens = json.loads((copy / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    kept = {key: token for key, token in tokens.items() if token["content"] != "<|tool_call_end|>"}
    edit(copy, "tokenizer_config.json", added_tokens_decoder=kept)
    assert inspect_checkpoint(copy).why_not_k2 == "its tokenizer_config.json does not name <|tool_call_end|>"


def test_a_checkpoint_with_a_sound_tokenizer_json_is_its_own_tokenizer_directory(demo: Path, tmp_path: Path) -> None:
    assert tokenizer_directory(inspect_checkpoint(demo), tmp_path) == demo
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_tiktoken_ranks_keeps_its_own_tokenizer(copy: Path, tmp_path: Path) -> None:
    (copy / "tiktoken.model").unlink()
    assert tokenizer_directory(inspect_checkpoint(copy), tmp_path / "cache") == copy


def test_a_tokenizer_json_that_encodes_differently_is_refused(copy: Path, tmp_path: Path) -> None:
    document = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    document["model"]["ignore_merges"] = False
    document["model"]["merges"] = []
    (copy / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(Internal, match="differently"):
        tokenizer_directory(inspect_checkpoint(copy), tmp_path / "cache")


def test_a_tokenizer_json_with_other_control_ids_is_refused(copy: Path, tmp_path: Path) -> None:
    text = (copy / "tokenizer.json").read_text(encoding="utf-8")
    (copy / "tokenizer.json").write_text(text.replace('"<|im_end|>"', '"<|im_fin|>"'), encoding="utf-8")
    with pytest.raises(Internal, match="control token"):
        tokenizer_directory(inspect_checkpoint(copy), tmp_path / "cache")


def test_a_tokenizer_json_that_cannot_be_read_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ServingError, match=r"tokenizer\.json"):
        tokenizer_directory(inspect_checkpoint(copy), tmp_path / "cache")


def test_conversion_writes_into_the_cache_only_and_once(published: Path, tmp_path: Path) -> None:
    before = snapshot(published)
    directory = tokenizer_directory(inspect_checkpoint(published), tmp_path / "cache")
    assert directory.parent == tmp_path / "cache" / "tokenizers"
    assert {file.name for file in directory.iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }
    written = snapshot(tmp_path / "cache")
    assert tokenizer_directory(inspect_checkpoint(published), tmp_path / "cache") == directory
    assert snapshot(tmp_path / "cache") == written
    assert snapshot(published) == before


@pytest.mark.slow
def test_the_converted_tokenizer_loads_without_remote_code_and_keeps_the_flags(published: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer  # takes 4 s

    directory = tokenizer_directory(inspect_checkpoint(published), tmp_path / "cache")
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    assert "auto_map" not in settings
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    vocabulary = Vocabulary.load(published)
    names = ["<|im_user|>", "<|tool_call_begin|>", "<|im_end|>"]
    assert tokenizer.encode("".join(names)) == [vocabulary.control(name) for name in names]
    assert tokenizer.decode(tokenizer.encode("".join(names)), skip_special_tokens=True) == "<|tool_call_begin|>"
    assert len(tokenizer) == vocabulary.size
    assert tokenizer.model_max_length == 32_768


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json", "generation_config.json"])
def test_a_changed_file_gets_an_entry_of_its_own(published: Path, tmp_path: Path, name: str) -> None:
    first = tokenizer_directory(inspect_checkpoint(published), tmp_path / "cache")
    edit(published, name, comment="changed")
    assert tokenizer_directory(inspect_checkpoint(published), tmp_path / "cache") != first


def test_a_conversion_that_fails_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(shutil, "copyfile", disk_full)
    with pytest.raises(OSError, match="disk full"):
        tokenizer_directory(inspect_checkpoint(published), tmp_path / "cache")
    assert list((tmp_path / "cache" / "tokenizers").iterdir()) == []


def test_where_two_processes_meet_the_second_takes_the_first_ones_entry(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inspect_checkpoint(published)
    compare = tokenizer_json.compare
    meanwhile: list[Path] = []

    def while_another_finishes(*args: Any) -> int:
        monkeypatch.setattr(tokenizer_json, "compare", compare)
        meanwhile.append(tokenizer_directory(found, tmp_path / "cache"))
        return compare(*args)

    monkeypatch.setattr(tokenizer_json, "compare", while_another_finishes)
    assert tokenizer_directory(found, tmp_path / "cache") == meanwhile[0]
    assert list((tmp_path / "cache" / "tokenizers").iterdir()) == meanwhile


def test_two_real_processes_share_one_entry(published: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from kimi_k2_serving.engine.checkpoint import inspect_checkpoint, tokenizer_directory\n"
        "print(tokenizer_directory(inspect_checkpoint(Path(sys.argv[1])), Path(sys.argv[2])))"
    )
    line = [sys.executable, "-c", code, str(published), str(tmp_path / "cache")]
    processes = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert printed == {str(entry) for entry in (tmp_path / "cache" / "tokenizers").iterdir()}


@pytest.mark.slow
def test_the_published_vocabulary_converts_and_encodes_the_golden_prompt(reference: Path, tmp_path: Path) -> None:
    found = inspect_checkpoint(reference)
    assert (found.is_k2, found.context_length, found.vocab_size) == (True, 262_144, 163_840)
    directory = tokenizer_directory(found, tmp_path)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert tokenizer.encode(GREETING).ids == [*GREETING_IDS, 163586]
    lines = (reference / "golden" / "small_input.txt").read_text(encoding="utf-8").splitlines()
    document = (directory / "tokenizer.json").read_bytes()
    assert tokenizer_json.compare(document, Vocabulary.load(reference), lines) == len(lines)


THINKING = {"163606": {"content": "<think>"}, "163607": {"content": "</think>"}}


@pytest.mark.parametrize(
    ("config", "tokens", "template", "name"),
    [
        ({}, THINKING, "", "Kimi-K2-Thinking"),
        ({}, {}, "{{ '<think>' }}", "Kimi-K2-Thinking"),
        ({}, {**THINKING, "163605": {"content": "<|media_begin|>"}}, "", r"Kimi K2\.5 or later"),
        ({}, {}, "{{ tools_ts_str }}", r"Kimi K2\.5 or later"),
        (
            {"architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25"},
            {},
            "",
            r"Kimi K2\.5 or later",
        ),
        ({"architectures": ["KimiLinearForCausalLM"]}, {}, "", "Kimi Linear"),
        ({"model_type": "kimi_vl"}, {}, "", "Kimi-VL"),
        ({"architectures": ["KimiK3ForConditionalGeneration"]}, {}, "", "Kimi K3"),
    ],
)
def test_another_checkpoint_of_the_family_is_refused_by_name_with_what_is_missing(
    copy: Path, config: dict[str, Any], tokens: dict[str, Any], template: str, name: str
) -> None:
    edit(copy, "config.json", **config)
    known = json.loads((copy / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    edit(copy, "tokenizer_config.json", added_tokens_decoder={**known, **tokens})
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(InvalidValue, match=rf"it is {name}: its? .*; serve it with text_input"):
        require_k2(inspect_checkpoint(copy))


def test_a_family_name_in_the_path_decides_nothing(copy: Path) -> None:
    renamed = copy.rename(copy.parent / "Kimi-K2-Thinking")
    require_k2(inspect_checkpoint(renamed))
