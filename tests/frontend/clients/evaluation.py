"""lm-eval's own client of /v1/completions on a local task: loglikelihoods of choices, and a generation.

`python evaluation.py URL CHECKPOINT`. It runs lm-eval as a user does, offline, and compares the loglikelihood of every
choice with the sum that the log-probabilities of an echo give. It fails if anything differs. CHECKPOINT is a directory
with tokenizer.json. Nothing here imports this project.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import requests
from tokenizers import Tokenizer

KEY = "sk-0123456789abcdef"
ROWS = (
    ("Say ab. The answer:", " ab", " zz"),
    ("The capital of France is", " Paris", " a bag of 漢字"),
    ("1 + 1 =", " 2", " eleven"),
)
CHOICES = """\
task: local_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
target_delimiter: ""
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""
GENERATION = """\
task: local_generation
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


def main(url: str, checkpoint: Path) -> int:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write(folder, checkpoint)
        run(url, folder)
        (results,) = folder.glob("out/**/results_*.json")
        scores = json.loads(results.read_text())["results"]
        assert set(scores) == {"local_choices", "local_generation"}, scores
        assert 0 <= scores["local_choices"]["acc,none"] <= 1
        (samples,) = folder.glob("out/**/samples_local_choices_*.jsonl")
        compare(url, Tokenizer.from_file(str(checkpoint / "tokenizer.json")), samples.read_text().splitlines())
    print("evaluation: lm-eval's loglikelihoods are those of the server")
    return 0


def write(folder: Path, checkpoint: Path) -> None:
    """The tasks, and a tokenizer that transformers loads without the checkpoint's code."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps({"question": row[0], "choices": row[1:]}) + "\n" for row in ROWS))
    tasks, tokenizer = folder / "tasks", folder / "tokenizer"
    tasks.mkdir()
    (tasks / "choices.yaml").write_text(CHOICES.format(data=data))
    (tasks / "generation.yaml").write_text(GENERATION.format(data=data))
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"})
    )


def run(url: str, folder: Path) -> None:
    model = {
        "model": "kimi_k2",
        "base_url": f"{url}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": str(folder / "tokenizer"),
        "num_concurrent": "2",
        "max_retries": "1",
        "max_length": "1024",
    }
    line = [
        sys.executable,
        "-m",
        "lm_eval",
        "run",
        "--model",
        "local-completions",
        "--log_samples",
        "--batch_size",
        "2",
    ]
    line += ["--model_args", ",".join(f"{name}={value}" for name, value in model.items())]
    line += ["--include_path", str(folder / "tasks"), "--tasks", "local_choices,local_generation"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    environment = {**os.environ, **offline, "OPENAI_API_KEY": KEY}
    subprocess.run([*line, "--output_path", str(folder / "out")], env=environment, check=True)


def compare(url: str, tokenizer: Tokenizer, samples: list[str]) -> None:
    assert len(samples) == len(ROWS)
    for sample in map(json.loads, samples):
        row = sample["doc"]
        for choice, (response,) in zip(row["choices"], sample["resps"], strict=True):
            context = tokenizer.encode(row["question"], add_special_tokens=False).ids
            whole = tokenizer.encode(row["question"] + choice, add_special_tokens=False).ids
            expected = loglikelihood(url, whole, len(context))
            assert math.isclose(float(response[0]), expected, abs_tol=0.05), (row, choice, response, expected)


def loglikelihood(url: str, ids: list[int], context: int) -> float:
    body: dict[str, Any] = {"model": "kimi_k2", "prompt": ids, "echo": True, "logprobs": 0, "max_tokens": 0}
    answer = requests.post(f"{url}/v1/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    answer.raise_for_status()
    found = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
    assert len(found) == len(ids)
    assert found[0] is None
    return float(sum(found[context:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
