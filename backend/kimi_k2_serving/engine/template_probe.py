"""Compares a checkpoint's chat template with this server's prompt, on the conversations of `probe_conversations`.

It runs at load, never for a request. A `Form` describes one of the known ways in which checkpoints differ; `form_of`
returns the form that agrees with the template. Any other difference refuses the checkpoint with a message that shows
it, unless engine.yaml sets `strict_template: false`. A checkpoint without a template gets the form of K2-0905. The
template runs in a child process that can be killed (`template_child`).
"""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kimi_k2_serving.core.chat import read_conversation
from kimi_k2_serving.core.errors import InvalidValue, NotFound
from kimi_k2_serving.core.messages import Json
from kimi_k2_serving.core.render import Form
from kimi_k2_serving.engine import template_child
from kimi_k2_serving.engine.probe_conversations import PROBES
from kimi_k2_serving.engine.template_file import read_template

logger = logging.getLogger(__name__)

# Wall-clock time, generous for a busy machine: the child itself is limited in CPU time.
CHILD_SECONDS = 60.0
SHOWN = 60


def form_of(checkpoint: Path, *, sorts: bool, strict: bool = True, python: str = sys.executable) -> Form:
    """`sorts`: the checkpoint's tokenizer sorts the keys of tools before it calls the template. `python`: the
    interpreter for the child. `strict` False: log a difference instead of raising.

    Raises InvalidValue if the template differs, NotFound if it can't be read or jinja2 is missing.
    """
    template = read_template(checkpoint)
    if template is None:
        return Form(sort_tool_keys=sorts)
    if find_spec("jinja2") is None:
        raise NotFound("can't be compared with this server's prompt without jinja2; install it", field=template.source)
    forms = [Form(line_break, sort) for line_break, sort in itertools.product((True, False), (sorts, not sorts))]
    theirs = ask_template(template.text, sorts, python)
    found = [(form, _difference(form, theirs)) for form in forms]
    for form, difference in found:
        if difference is None:
            return form
    # Report the form that agrees with the most probes before its first difference.
    form, difference = max(found, key=lambda each: each[1][0] if each[1] else 0)
    assert difference is not None
    if strict:
        detail = f"{difference[1]}; take another template, or set strict_template: false in engine.yaml"
        raise InvalidValue(detail, field=template.source)
    logger.warning("%s: %s; accepted by strict_template: false", template.source, difference[1])
    return form


def ask_template(template: str, sorts: bool, python: str = sys.executable) -> list[dict[str, str]]:
    """Render every probe with the template. Returns {"text"} or {"error"} for each. Never raises because of the
    template.
    """
    probes = [{"messages": each.messages, "tools": _sorted(each.tools) if sorts else each.tools} for each in PROBES]
    command = [python, "-I", template_child.__file__]
    with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as answer:
        request.write(json.dumps({"template": template, "probes": probes}).encode())
        request.seek(0)
        try:
            subprocess.run(
                command,
                stdin=request,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                timeout=CHILD_SECONDS,
                check=True,
            )
            answer.seek(0)
            found: list[dict[str, str]] = json.loads(answer.read())
        except (subprocess.SubprocessError, ValueError):
            return [{"error": "no answer within its limits on CPU time and memory"} for _ in PROBES]
    return found


def _sorted(tools: list[Json] | None) -> Json:
    """Sort keys as the checkpoint's tokenizer code does."""
    found: Json = json.loads(json.dumps(tools, sort_keys=True))
    return found


def _difference(form: Form, theirs: list[dict[str, str]]) -> tuple[int, str] | None:
    """(number of the first probe that differs, description of the difference); None if all agree."""
    for number, (probe, their) in enumerate(zip(PROBES, theirs, strict=True)):
        conversation: dict[str, Any] = {"messages": probe.messages, "tools": probe.tools}
        ours = form.prompt(read_conversation(**conversation)).text()
        if their.get("text") in (ours, ours.replace(*probe.known) if probe.known else ours):
            continue
        head = f"differs from rule {probe.rule} with {probe.name}"
        if "text" not in their:
            return number, f"{head}: it fails with {their.get('error')}"
        return number, f"{head}: {_shown(their['text'], ours)}"
    return None


def _shown(theirs: str, ours: str) -> str:
    """Excerpts of both texts around the first character that differs."""
    same = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    start = max(0, same - SHOWN // 2)
    return f"it writes {theirs[start : same + SHOWN]!r} where this server writes {ours[start : same + SHOWN]!r}"
