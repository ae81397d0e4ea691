"""Recognises other checkpoints of the Kimi family by their files. The refusal then names the model and what this server
lacks for it.

They share K2's vocabulary, and some share its architecture, but not its format. Served with the format of
Kimi-K2-Instruct-0905, they would answer badly without any error. They are recognised by what changes the format: the
architecture, the control tokens, and what their chat template writes. A directory's name decides nothing here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.engine.template_file import read_template

THINK = "<think>"
# Words that only the template of K2.5 and later has: they belong to the tools' declaration in TypeScript.
TYPESCRIPT = ("tools_ts_str", "namespace functions")
MEDIA = "<|media_begin|>"
NO_THINKING = f"its answers begin with {THINK}, and this server has no rule for thinking in prompts and answers"
NO_TYPESCRIPT = "its tools are declared in TypeScript, which this server does not write"
NO_IMAGES = "it reads images, and this server has no rule for them"

# architecture or model_type in config.json -> the name, and what is missing. K2.5, K2.6 and K2.7 have the same files.
LATER = ("Kimi K2.5 or later", f"{NO_THINKING}; {NO_TYPESCRIPT}; {NO_IMAGES}")
K3 = ("Kimi K3", f"{NO_THINKING}; {NO_TYPESCRIPT}; its architecture is another one")
NAMED = {
    "KimiK25ForConditionalGeneration": LATER,
    "kimi_k25": LATER,
    "KimiK3ForConditionalGeneration": K3,
    "KimiK3LinearForCausalLM": K3,
    "KimiVLForConditionalGeneration": ("Kimi-VL", NO_IMAGES),
    "kimi_vl": ("Kimi-VL", NO_IMAGES),
    "KimiLinearForCausalLM": ("Kimi Linear", "its architecture is another one"),
    "kimi_linear": ("Kimi Linear", "its architecture is another one"),
}
ADVICE = "serve it with text_input through the engine model alone, or take Kimi-K2-Instruct-0905"


def name_relative(checkpoint: Path, architecture: str, model_type: object) -> str:
    """The reason why this is another checkpoint of the family; "" if nothing shows that. Files that can't be read are
    ignored here: another module reports them.
    """
    if found := NAMED.get(architecture) or NAMED.get(model_type if isinstance(model_type, str) else ""):
        return _sentence(*found)
    names, template = _control_names(checkpoint / "tokenizer_config.json"), _template(checkpoint)
    if MEDIA in names or any(word in template for word in TYPESCRIPT):
        return _sentence(*LATER)
    if THINK in names or THINK in template:
        return _sentence("Kimi-K2-Thinking", NO_THINKING)
    return ""


def _sentence(name: str, missing: str) -> str:
    return f"it is {name}: {missing}; {ADVICE}"


def _control_names(path: Path) -> set[str]:
    try:
        settings: Any = json.loads(path.read_bytes())
        return {str(each.get("content")) for each in settings["added_tokens_decoder"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _template(checkpoint: Path) -> str:
    try:
        found = read_template(checkpoint)
    except (InvalidValue, NotFound):
        return ""
    return found.text if found else ""
