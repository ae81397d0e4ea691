"""A prompt of K2's whole context, stage by stage: `python -m tests.bench.long_prompt`. Time and peak memory of each.

The stages are the engine path's own: the request's tensors read and checked, the frame to the host written, the frame
read there in pieces as a socket gives them. What SGLang then does with the ids is not ours.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kimi_k2_serving.engine import wire

sys.path.insert(0, str(Path(__file__).parents[1] / "triton"))
import fake_pb_utils

sys.modules.setdefault("triton_python_backend_utils", fake_pb_utils)

SIZES = (32_768, 262_144)
PIECE = 1 << 16


class AnyVocabulary:
    vocab_size = 163_840

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Any) -> str:
        raise NotImplementedError


def stages(length: int) -> dict[str, Callable[[], Any]]:
    from kimi_k2_serving.triton.engine.request import read_job

    request = fake_pb_utils.Request({"input_ids": [(7 * number) % 163_000 for number in range(length)]})
    read = lambda: read_job(request, AnyVocabulary(), context_length=length + 1, new_uid=lambda: "u")  # noqa: E731
    job = read()
    submit = wire.Submit("u", list(job.generation.input_ids), {}, None, 0)
    data = wire.frame(submit)

    def receive() -> None:
        reader = wire.FrameReader(wire.ToHost)
        received = [message for at in range(0, len(data), PIECE) for message in reader.feed(data[at : at + PIECE])]
        assert len(received) == 1

    return {"read the request": read, "write the frame": lambda: wire.frame(submit), "read the frame": receive}


def measure(stage: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds, the best of five, and the peak in MiB beyond what was there."""
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        stage()
        seconds.append(time.perf_counter() - begin)
    tracemalloc.start()
    stage()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds) * 1e3, peak / 2**20


def main() -> None:
    print("| stage | " + " | ".join(f"{size:,} tokens" for size in SIZES) + " |\n|---|" + "---|" * len(SIZES))
    measured = {size: {name: measure(stage) for name, stage in stages(size).items()} for size in SIZES}
    for name in measured[SIZES[0]]:
        cells = [f"{measured[size][name][0]:.1f} ms, {measured[size][name][1]:.1f} MiB" for size in SIZES]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
