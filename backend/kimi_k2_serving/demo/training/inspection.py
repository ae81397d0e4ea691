"""What a network has learnt so far, without a server: exact answers on held-out conversations, and sample answers.

An answer is exact if the likeliest token is the right one at each of its positions, given the right tokens before it.
Then greedy decoding gives exactly this answer, so one forward pass replaces the generation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kimi_k2_serving.demo.training.batches import TrainingText
from kimi_k2_serving.demo.training.network import Network


@dataclass(slots=True)
class Score:
    """How many of `answers` are exact."""

    exact: int = 0
    answers: int = 0

    @property
    def share(self) -> float:
        return self.exact / self.answers if self.answers else 0.0


@torch.no_grad()  # type: ignore[untyped-decorator]
def exactness(network: Network, conversations: Iterable[tuple[str, TrainingText]]) -> dict[str, Score]:
    """The score of each kind of conversation, in order of name. An answer is one turn of the assistant."""
    device = network.lm_head.weight.device
    scores: dict[str, Score] = {}
    network.eval()
    for kind, one in conversations:
        ids = torch.from_numpy(one.ids.astype("int64")).to(device)
        likeliest = network.lm_head(network(ids[None, :-1]))[0].argmax(-1)
        right = (likeliest == ids[1:]).cpu().numpy()
        score = scores.setdefault(kind, Score())
        for start, end in answers(one):
            score.answers += 1
            score.exact += int(right[start - 1 : end - 1].all())
    network.train()
    return dict(sorted(scores.items()))


def answers(one: TrainingText) -> list[tuple[int, int]]:
    """The bounds of each run of the assistant's tokens."""
    edges = np.flatnonzero(np.diff(one.answer.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


@torch.no_grad()  # type: ignore[untyped-decorator]
def greedy(network: Network, prompt: Sequence[int], stop: int, limit: int) -> list[int]:
    """The likeliest answer to `prompt`, up to `stop` or `limit` ids. Each id costs one pass over the whole text."""
    device = network.lm_head.weight.device
    ids = list(prompt)
    network.eval()
    while len(ids) < len(prompt) + limit:
        hidden = network(torch.tensor([ids], device=device))
        ids.append(int(network.lm_head(hidden[:, -1]).argmax()))
        if ids[-1] == stop:
            break
    network.train()
    return ids[len(prompt) :]
