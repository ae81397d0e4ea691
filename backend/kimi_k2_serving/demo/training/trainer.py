"""The training loop: AdamW with a warm-up and a linear way down to zero, on batches from several processes.

The loss counts every token that the assistant writes, and a part of the prompts' tokens with a smaller weight: they
teach the language and copying, and the product with the vocabulary is dear. A step costs in proportion to its tokens. A
run lasts a number of minutes, or a number of steps: then one seed and one number of processes give the same run on the
same machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from kimi_k2_serving.demo.training import run
from kimi_k2_serving.demo.training.batches import Batch
from kimi_k2_serving.demo.training.network import Network
from kimi_k2_serving.demo.training.run import Point, RunProgress

# Every eighth token of prompts counts, as much as if each did with a weight of 0.05.
PROMPT_EVERY = 8
PROMPT_WEIGHT = 0.4
WARM_UP_STEPS = 200
BALANCE_EVERY = 10
BALANCE_RATE = 2e-3
# How often a run is looked at before its end.
LOOKS = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The run ends after `steps`, or after `minutes` if that is 0. `learning_rate` is the peak."""

    minutes: float
    steps: int
    learning_rate: float
    report_every: int
    save_every_seconds: float


class Trainer:
    """`train` runs until the plan's end or until `stop` answers True; the run's state is in `directory`."""

    def __init__(self, network: Network, plan: Schedule, directory: Path, device: torch.device, say: Say) -> None:
        self.network = network.to(device)
        self.plan = plan
        self.device = device
        self._directory = directory
        self._say = say
        decayed = [p for name, p in network.named_parameters() if p.dim() > 1 and "embed" not in name]
        others = [p for name, p in network.named_parameters() if p.dim() <= 1 or "embed" in name]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
            lr=plan.learning_rate,
            betas=(0.9, 0.95),
            fused=device.type == "cuda",
        )
        self.progress = run.restored(directory, network, self._optimizer)
        self.progress.starts += 1

    def train(self, batches: Iterator[Batch], stop: Callable[[], bool], inspect: Callable[[], None]) -> RunProgress:
        """Call `inspect` a few times before the end. Returns the progress, saved."""
        progress = self.progress
        meter = _Meter(self.device, progress)
        started = saved = time.monotonic()
        before = progress.seconds
        looks = int(self._done() * (LOOKS + 1))
        for batch in batches:
            progress.step += 1
            progress.tokens += batch.ids.size
            meter.add(*self._step(batch))
            progress.seconds = before + time.monotonic() - started
            if progress.step % self.plan.report_every == 0:
                self._report(meter)
            done = self._done() >= 1
            if looks < int(self._done() * (LOOKS + 1)) <= LOOKS:
                looks = int(self._done() * (LOOKS + 1))
                inspect()
            if done or stop() or time.monotonic() - saved > self.plan.save_every_seconds:
                run.save(self._directory, self.network, self._optimizer, progress)
                saved = time.monotonic()
            if done or stop():
                break
        return progress

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * self._share()
        ids = torch.from_numpy(batch.ids.astype("int64")).to(self.device, non_blocking=True)
        kind = torch.from_numpy(batch.kind.copy()).to(self.device, non_blocking=True)[:, 1:].flatten()
        place = torch.arange(len(kind), device=self.device) + self.progress.step
        counted = ((kind == 2) | ((kind == 1) & (place % PROMPT_EVERY == 0))).nonzero().squeeze(-1)
        with self._precision():
            logits = self.network.lm_head(self.network(ids[:, :-1]).flatten(0, 1)[counted])
        losses = functional.cross_entropy(logits.float(), ids[:, 1:].flatten()[counted], reduction="none")
        answer, prompt = (kind[counted] == 2).float(), (kind[counted] == 1).float()
        weights = answer + PROMPT_WEIGHT * prompt
        loss = (losses * weights).sum() / weights.sum()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimizer.step()
        if self.progress.step % BALANCE_EVERY == 0:
            for router in self.network.routers():
                router.balance(BALANCE_RATE)
        losses = losses.detach()
        return (losses * answer).sum() / answer.sum(), (losses * prompt).sum() / prompt.sum()

    def _precision(self) -> AbstractContextManager[object]:
        # Without a GPU, products of bfloat16 matrices are slower than those of float32.
        on_gpu: AbstractContextManager[object] = torch.autocast("cuda", torch.bfloat16, self.device.type == "cuda")
        return on_gpu

    def _done(self) -> float:
        """The share of the run that is over."""
        if self.plan.steps:
            return self.progress.step / self.plan.steps
        return self.progress.seconds / (60 * self.plan.minutes)

    def _share(self) -> float:
        """The share of the peak learning rate at this step."""
        return min(self.progress.step / WARM_UP_STEPS, max(0.0, 1 - self._done()))

    def _report(self, meter: _Meter) -> None:
        progress = self.progress
        answer, prompt, rate = meter.read(progress)
        progress.curve.append(Point(progress.step, answer, prompt, progress.seconds, progress.tokens))
        left = progress.seconds * (1 / self._done() - 1) / 60
        self._say(
            f"step {progress.step}  answer {answer:.4f}  prompt {prompt:.3f}  "
            f"{rate / 1000:.1f}k tokens/s  {progress.tokens / 1e6:.1f}M tokens  {left:.1f} min left"
        )


class _Meter:
    """Means of the losses since the last reading, summed on the device so that a step never waits for it."""

    def __init__(self, device: torch.device, progress: RunProgress) -> None:
        self._sums = torch.zeros(2, device=device)
        self._count = 0
        self._from = (progress.seconds, progress.tokens)

    def add(self, answer: Tensor, prompt: Tensor) -> None:
        self._sums += torch.stack([answer, prompt])
        self._count += 1

    def read(self, progress: RunProgress) -> tuple[float, float, float]:
        answer, prompt = (self._sums / max(1, self._count)).tolist()
        seconds, tokens = progress.seconds - self._from[0], progress.tokens - self._from[1]
        self._sums.zero_()
        self._count = 0
        self._from = (progress.seconds, progress.tokens)
        return answer, prompt, tokens / max(seconds, 1e-9)
