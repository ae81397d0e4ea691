"""Does work before the first request, so that kernels are compiled and caches filled when the engine is reported as
started.

SGLang warms up only behind its own HTTP server, and capturing graphs covers only decoding. So each data-parallel group
computes a prompt longer than a chunk. Then it computes one that begins like the first, with a grammar and with
sampling, for the path with a cached prefix. Stalls are not watched for yet, because compiling takes minutes on a new
machine.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

# The number of tokens after the first chunk, after the cached prefix, and in the answer.
REST = 64
GENERATED = 4
# The length of a chunk if SGLang's chunking is off, and the largest id used, which is a plain token in any vocabulary.
UNCHUNKED = 8_192
IDS = 32_000
SAMPLING = {"max_new_tokens": GENERATED, "temperature": 0.6, "top_p": 0.9, "top_k": 20}


@dataclass(frozen=True, slots=True)
class WarmUp:
    """`length` is the prompt's; `groups` are data-parallel; `grammar`: whether SGLang has a grammar backend."""

    length: int
    ids: int
    groups: int
    grammar: bool

    @classmethod
    def of_engine(cls, engine: Any) -> WarmUp:
        manager = engine.tokenizer_manager
        resolved = manager.server_args.resolved_dict()
        # On a CPU nothing is compiled for a size, and 2,048 tokens take 6 s, so a short prompt is enough there.
        chunk = int(resolved["chunked_prefill_size"] or 0) if resolved["device"] != "cpu" else REST
        longest = int(engine._scheduler_init_result.scheduler_infos[0]["max_req_input_len"])
        return cls(
            length=max(1, min((chunk if chunk > 0 else UNCHUNKED) + REST, longest - 2 * GENERATED)),
            ids=min(IDS, int(manager.model_config.vocab_size)),
            groups=int(resolved["attn_dp_size"]) * int(resolved["dp_size"]),
            grammar=resolved["grammar_backend"] == "xgrammar",
        )

    def prompt(self, group: int) -> list[int]:
        """Ids that look random: equal tokens would all go to the same experts."""
        return [(7_919 * place * place + 104_729 * group + 13 * place) % self.ids for place in range(self.length)]

    def continued(self, group: int) -> list[int]:
        """A prompt that begins like the one before and ends in another way."""
        prompt = self.prompt(group)
        shared = max(0, self.length - REST)
        return prompt[:shared] + prompt[shared:][::-1]


async def warm_up(engine: Any, request_id: str) -> None:
    """Run the warm-up. `request_id` begins the ids of its requests. An error of the engine is raised, because then it
    could not serve either.
    """
    plan = WarmUp.of_engine(engine)
    await asyncio.gather(*(_warm_group(engine, plan, group, f"{request_id}-{group}") for group in range(plan.groups)))


async def _warm_group(engine: Any, plan: WarmUp, group: int, request_id: str) -> None:
    await engine.async_generate(input_ids=plan.prompt(group), sampling_params=SAMPLING, rid=f"{request_id}-prompt")
    constrained = {**SAMPLING, "regex": "[ab]{4}"} if plan.grammar else SAMPLING
    prompt = plan.continued(group)
    await engine.async_generate(input_ids=prompt, sampling_params=constrained, rid=f"{request_id}-prefix")
