"""The process that compiles grammars, so that a compile which hangs or crashes takes nothing with it.

`python -m kimi_k2_serving.grammar.worker CHECKPOINT` answers one JSON line for each JSON line on standard input:

    {"tag": TEXT}                                         -> {"ok": true, "seconds": 0.04}
    {"tag": TEXT, "walks": N, "most": TOKENS, "seed": S}  -> {"ok": true, "seconds": 0.04, "walks": [{"ids", "ended"}]}
    what xgrammar refuses                                 -> {"ok": false}

The first line it writes, {"ready": true}, says that the vocabulary is loaded.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from kimi_k2_serving.core.tokens import Vocabulary
from kimi_k2_serving.grammar.masks import compiler, token_info, walk


def main(checkpoint: str) -> None:
    vocabulary = Vocabulary.load(Path(checkpoint))
    grammars = compiler(token_info(vocabulary))
    stops = frozenset(vocabulary.stop_ids)
    _answer({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        try:
            grammar = grammars.compile_structural_tag(request["tag"])
        except (RuntimeError, ValueError):
            _answer({"ok": False})
            continue
        seconds = time.perf_counter() - began
        dice = Random(request.get("seed", 0))
        walks = []
        for _ in range(request.get("walks", 0)):
            drawn = walk(grammar, stops, dice, most=request["most"])
            walks.append({"ids": drawn.ids, "ended": drawn.ended})
        _answer({"ok": True, "seconds": seconds, "walks": walks})


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
