"""SGLang on the CPU, with this project's platform and attention, computes what transformers compute.

Both read the demo's files and decode greedily from 50 prompts of its world. Where SGLang first takes another token than
transformers in float32, the two best tokens have to be as close as the noise of bfloat16: what transformers' own
log-probabilities move by when the model is loaded in bfloat16. SGLang's cache is bfloat16, its matrices are float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import torch
from torch import Tensor

from kimi_k2_serving.demo import world
from kimi_k2_serving.engine.cpu_plugin import mend_torchvision
from tests.server.running import ROOT, Server

PROMPTS, LONGEST, TOKENS = 50, 500, 24
CHECKPOINT = ROOT / ".cache" / "checkpoints" / "demo"


def prompts() -> Iterator[list[int]]:
    vocabulary = world.vocabulary()
    for sample in world.samples(world.Split.HELD_OUT, 3):
        one = world.encode(sample, vocabulary)
        written = list(one.loss)
        end = len(written) - written[::-1].index(0)
        if end <= LONGEST:
            yield list(one.ids[:end])


def answer(server: Server, prompt: list[int]) -> list[tuple[int, float]]:
    """SGLang's ids, each with its log-probability."""
    body = {"input_ids": prompt, "max_tokens": TOKENS, "temperature": 0.0, "return_logprobs": True, "ignore_eos": True}
    response = httpx.post(server.generate("kimi_k2_engine"), json=body, timeout=120)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    each = json.loads(found["logprobs"])
    return [(id_, row[str(id_)]["logprob"]) for id_, row in zip(found["output_ids"], each, strict=True)]


def models() -> tuple[Any, Any]:
    mend_torchvision()
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    shape = json.loads((CHECKPOINT / "config.json").read_text()) | {"model_type": "deepseek_v3"}
    config = DeepseekV3Config(**shape)
    exact = DeepseekV3ForCausalLM.from_pretrained(CHECKPOINT, config=config, dtype=torch.float32)
    return exact, DeepseekV3ForCausalLM.from_pretrained(CHECKPOINT, config=config, dtype=torch.bfloat16)


@torch.no_grad()
def logprobs(model: Any, prompt: list[int], ids: list[int]) -> Tensor:
    """(ids, vocabulary): the log-probabilities before each of the ids."""
    logits: Tensor = model(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, len(prompt) - 1 :]
    return logits.float().log_softmax(-1)


def test_greedy_answers_equal_those_of_transformers_up_to_the_noise_of_bfloat16(trained: Server) -> None:
    exact, rounded = models()
    noise, ours, gaps = [], [], []
    for prompt in islice(prompts(), PROMPTS):
        given = answer(trained, prompt)
        ids = [id_ for id_, _ in given]
        right, coarse = logprobs(exact, prompt, ids), logprobs(rounded, prompt, ids)
        chosen = torch.tensor(ids)[:, None]
        noise.append((right.gather(1, chosen) - coarse.gather(1, chosen)).abs())
        ours.append((right.gather(1, chosen)[:, 0] - torch.tensor([value for _, value in given])).abs())
        different = (right.argmax(-1) != chosen[:, 0]).nonzero()
        if len(different):
            best = right[different[0, 0]].topk(2).values
            gaps.append(float(best[0] - best[1]))
    allowed, mean, own = float(torch.cat(noise).max()), float(torch.cat(noise).mean()), float(torch.cat(ours).mean())
    print(
        f"{len(gaps)} of {PROMPTS} answers differ, gaps {gaps}; noise {mean:.4f}, at most {allowed:.3f}; ours {own:.4f}"
    )
    assert all(gap <= allowed for gap in gaps)
    assert own <= mean
