"""`scripts/train-demo`: train the demo model and write the files that the repository ships.

Exit codes: 0 done, 2 the arguments were wrong, 130 interrupted (the run is saved; the same command goes on).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.demo import world
from kimi_k2_serving.demo.architecture import TRAINED
from kimi_k2_serving.demo.training.batches import BatchReader, TrainingText
from kimi_k2_serving.demo.training.inspection import Score, exactness, greedy
from kimi_k2_serving.demo.training.network import Network, published, restore
from kimi_k2_serving.demo.training.trainer import Schedule, Trainer
from kimi_k2_serving.demo.vocabulary import tiktoken_model
from kimi_k2_serving.demo.world.ranks import read_ranks

ROOT = Path(__file__).resolve().parents[4]
SHIPPED = Path(__file__).resolve().parents[1] / "trained"

EPILOG = """\
examples:
  scripts/train-demo --minutes 60                on two cores, or on a GPU if there is one
  scripts/train-demo --minutes 4.25 --tokens 131072 --processes 14 --learning-rate 0.003
                                                 how the shipped model was trained, on one GPU and 16 cores
  scripts/train-demo --minutes 2 --output /tmp/t a trial that leaves the shipped files alone
  scripts/train-demo --begin-with backend/kimi_k2_serving/demo/trained --learning-rate 0.001
                                                 train the shipped model on

An interrupted run goes on with the same command. --fresh begins again.
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    vocabulary = world.vocabulary()
    if args.fresh:
        for file in args.run.glob("*"):
            file.unlink()
    network = Network(TRAINED)
    # Read now: --output may be the same directory.
    earlier = None
    if args.begin_with:
        restore(network, load_file(args.begin_with / "model.safetensors"))
        earlier = json.loads((args.begin_with / "training.json").read_text(encoding="utf-8"))
    plan = Schedule(args.minutes, args.steps, args.learning_rate, args.report_every, save_every_seconds=300)
    trainer = Trainer(network, plan, args.run, device, _say)
    start = trainer.progress
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _say(f"{parameters / 1e6:.2f} million parameters on {_name(device)}, torch {torch.__version__}")
    if start.step:
        _say(f"going on after step {start.step} ({args.run})")
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))

    def source(seed: int) -> Iterator[TrainingText]:
        torch.set_num_threads(1)
        return (_encoded(sample, vocabulary) for sample in world.samples(world.Split.TRAIN, seed))

    # A run that goes on must not see the conversations of its first part again.
    seed = args.seed * 1_000 + start.starts
    held_out = _held_out(vocabulary, args.inspect)
    with BatchReader(source, processes=args.processes, tokens=args.tokens, longest=args.longest, seed=seed) as reader:

        def look() -> None:
            _ship(args.output, trainer, _inspect(network, held_out, vocabulary), args, earlier)

        trainer.train(iter(reader), lambda: bool(stopped), look)
    look()
    if stopped:
        _say(f"interrupted; saved in {args.run}")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/train-demo",
        description="Train the demo model on conversations that the repository's code makes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=60, help="how long to train, all starts together (default 60)")
    add("--steps", type=int, default=0, help="the number of steps instead: a run that can be repeated exactly")
    add("--run", type=Path, default=ROOT / ".cache/train-demo", metavar="DIR", help="the run's state")
    add(
        "--output", type=Path, default=SHIPPED, metavar="DIR", help="where the result goes (default: the shipped files)"
    )
    add("--fresh", action="store_true", help="begin again, even if --run holds an interrupted run")
    add("--begin-with", type=Path, metavar="DIR", help="begin with these weights instead of random ones")
    add("--seed", type=int, default=1)
    add("--device", help="cpu or cuda (default: a GPU if there is one)")
    add("--tokens", type=int, default=4_096, help="tokens of a batch (default 4096; 32768 on a GPU)")
    add("--longest", type=int, default=4_096, help="leave out conversations over this many tokens (default 4096)")
    add("--learning-rate", type=float, default=2e-3, help="the peak (default 0.002)")
    add("--processes", type=int, default=1, help="processes that make conversations (default 1; 14 on a GPU)")
    add("--report-every", type=int, default=50, metavar="STEPS")
    add("--inspect", type=int, default=300, metavar="N", help="held-out conversations that are scored (default 300)")
    return parser


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} threads of a {platform.machine()} CPU ({os.cpu_count()} cores)"


def _held_out(vocabulary: Vocabulary, number: int) -> list[tuple[str, TrainingText]]:
    samples = itertools.islice(world.samples(world.Split.HELD_OUT, 1), number)
    return [(sample.kind, _encoded(sample, vocabulary)) for sample in samples]


def _encoded(sample: world.Sample, vocabulary: Vocabulary) -> TrainingText:
    one = world.encode(sample, vocabulary)
    return TrainingText(np.array(one.ids, np.uint16), np.array(one.loss, np.bool_))


def _inspect(
    network: Network, held_out: Sequence[tuple[str, TrainingText]], vocabulary: Vocabulary
) -> dict[str, Score]:
    scores: dict[str, Score] = exactness(network, held_out)
    total = Score(sum(s.exact for s in scores.values()), sum(s.answers for s in scores.values()))
    each = "  ".join(f"{kind} {score.share:.2f}" for kind, score in scores.items())
    _say(f"held out: {total.exact} of {total.answers} answers exact.  {each}")
    stop = vocabulary.control("<|im_end|>")
    for kind, one in held_out[:4]:
        ids = one.ids.tolist()
        start = int(one.answer.argmax())
        answer = greedy(network, ids[:start], stop, 48)
        _say(f"  {kind}: {_text(vocabulary, ids[max(0, start - 24) : start])!r} -> {_text(vocabulary, answer)!r}")
    return scores


def _text(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    return b"".join(vocabulary.token_bytes(token) for token in ids).decode("utf-8", "replace")


def _ship(output: Path, trainer: Trainer, scores: dict[str, Score], args: argparse.Namespace, earlier: object) -> None:
    """Write the weights as they are now, and how they came about. `earlier`: the record of the weights that the run
    began with, None for random ones.
    """
    progress = trainer.progress
    output.mkdir(parents=True, exist_ok=True)
    save_file(published(trainer.network), output / "model.safetensors", metadata={"format": "pt"})
    (output / "tiktoken.model").write_bytes(tiktoken_model(read_ranks()))
    record: dict[str, object] = {
        "device": _name(trainer.device),
        "torch": str(torch.__version__),
        "seed": args.seed,
        "step": progress.step,
        "starts": progress.starts,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "batch_tokens": args.tokens,
        "processes": args.processes,
        "learning_rate": args.learning_rate,
        "held_out_exact": {kind: [score.exact, score.answers] for kind, score in scores.items()},
        "curve": [[p.step, round(p.answer_loss, 5), round(p.prompt_loss, 4)] for p in progress.curve],
    }
    if earlier is not None:
        record["began_with"] = earlier
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    size = (output / "model.safetensors").stat().st_size
    _say(f"written to {output}: {size / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    sys.exit(main())
