"""Renders probes with a checkpoint's chat template: a script that `template_probe` runs in a process of its own.

Standard input: {"template", "probes": [{"messages", "tools"}]}; standard output: one {"text"} or {"error"} per probe.
A template is untrusted code. Before it is parsed, this process limits its own CPU time, memory and output, and jinja2's
sandbox keeps the template from Python's internals. The environment is the one that transformers gives to templates.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, NoReturn

CPU_SECONDS = 3
MEMORY_BYTES = 1 << 30
OUTPUT_BYTES = 4 << 20
# The longest rendered probe; a correct one has some hundred characters.
MAX_CHARACTERS = 1 << 16


def main() -> None:
    for resource_kind, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(resource_kind, (limit, limit))
    request = json.load(sys.stdin.buffer)
    sys.stdout.buffer.write(json.dumps(render_probes(request["template"], request["probes"])).encode())


def render_probes(source: str, probes: list[dict[str, Any]]) -> list[dict[str, str]]:
    try:
        template = make_sandbox().from_string(source)
    except Exception as error:
        return [{"error": type(error).__name__} for _ in probes]
    # Forbid new processes and threads: jinja2 has loaded all that it needs.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return [_render(template, probe) for probe in probes]


def _render(template: Any, probe: dict[str, Any]) -> dict[str, str]:
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate(**probe, add_generation_prompt=True, bos_token="[BOS]", eos_token="[EOS]"):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_CHARACTERS:
                return {"error": "TooLong"}
    except Exception as error:
        # Only the class is returned, because a template can make the message arbitrarily long.
        return {"error": type(error).__name__}
    return {"text": "".join(pieces)}


def make_sandbox() -> Any:
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def tojson(value: Any, ensure_ascii: bool = False, **rest: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **rest)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    sandbox.filters["tojson"] = tojson
    sandbox.globals["raise_exception"] = raise_exception
    # A template may print the date, which K2's prompt does not have. The format string returned here makes such a
    # prompt differ from ours.
    sandbox.globals["strftime_now"] = lambda form: str(form)
    return sandbox


if __name__ == "__main__":
    main()
