"""The published name of a checkpoint, judged by its config.json. With it clients of that model find the model by its
own id.
"""

from __future__ import annotations

import json
from pathlib import Path

from kimi_k2_serving.plan.shape import K2

K2_0905 = "moonshotai/Kimi-K2-Instruct-0905"
# These values distinguish 0905 from its predecessor (half the context), from other quantizations and from the demo
# (other sizes).
SIZES = {
    "hidden_size": K2.hidden,
    "num_hidden_layers": K2.layers,
    "n_routed_experts": K2.experts,
    "vocab_size": K2.vocabulary,
    "max_position_embeddings": K2.context,
}


def published_name(checkpoint: Path) -> str | None:
    """The name of Kimi-K2-Instruct-0905 if this is its published form, block fp8; None for every other checkpoint."""
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or any(config.get(name) != size for name, size in SIZES.items()):
        return None
    quantization = config.get("quantization_config")
    is_fp8 = isinstance(quantization, dict) and quantization.get("quant_method") == "fp8"
    return K2_0905 if is_fp8 else None
