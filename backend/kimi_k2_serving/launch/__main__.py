"""The first stage of `scripts/serve`. It needs only Python 3.11 or 3.12 and the standard library.

It checks the flags and the machine, makes the virtual environment, and then runs the second stage (serve.py) by exec:
the process id stays the same, so a signal sent to `scripts/serve` reaches the process that watches Triton.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from kimi_k2_serving.core.errors import InvalidValue
from kimi_k2_serving.launch import cli, install, machine, preflight
from kimi_k2_serving.launch.layout import Layout, checkout
from kimi_k2_serving.launch.progress import Progress
from kimi_k2_serving.launch.refusal import Failure, Refusal
from kimi_k2_serving.settings import Settings, inherited


def main(argv: Sequence[str]) -> int:
    """Return an exit code on an error; otherwise replace this process by the second stage and never return."""
    try:
        Settings.read()
    except InvalidValue as error:
        refusal = Refusal(error.field, error.detail, "or unset the variable")
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    progress = Progress(sys.stderr)
    try:
        _prepare(argv, progress)
    except (Refusal, Failure) as error:
        progress.plain(str(error), level="error")
        return error.exit_code
    except KeyboardInterrupt:
        progress.plain("serve: stopped")
        return 130
    return _become(checkout(), argv)


def _become(layout: Layout, argv: Sequence[str]) -> NoReturn:
    environment = {name: value for name, value in inherited().items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    os.execve(layout.python, [str(layout.python), "-m", "kimi_k2_serving.launch.serve", *argv], environment)


def _prepare(argv: Sequence[str], progress: Progress) -> None:
    options = cli.parse_options(argv)
    layout = checkout()
    torch = install.Torch(options.torch_index, options.torch_plain)
    installed = install.installed(layout, torch)
    here = machine.observe(layout.root)
    for warning in preflight.check_machine(
        options, here, layout, installed=installed, port_is_free=machine.port_is_free
    ):
        progress.plain(warning, level="warning")
    if not installed:
        install.ensure(layout, torch, progress)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
