"""The flags of `scripts/serve`, and the checks that need only the flags. Standard library only."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kimi_k2_serving import __version__
from kimi_k2_serving.launch.refusal import Refusal

DEMO_PRESETS = ("demo", "demo-random", "demo-2-nodes")

EPILOG = """\
examples:
  scripts/serve                                     the demo model on this machine's CPU
  scripts/serve --http-port 9100 --grpc-port 9101 --metrics-port 9102
                                                    beside another server
  scripts/serve --checkpoint ~/models/my-k2         a K2 checkpoint of your own
  scripts/serve --prepare-only                      install and build everything, start nothing
  scripts/serve --print-command                     the tritonserver line, to paste into a shell or a unit file

The first start installs a pinned Python stack into .venv (some 3 GB, a few minutes); later starts take seconds.
Ctrl-C stops everything and leaves nothing behind. Logs are in .cache/logs.

exit codes: 0 stopped on request; 1 something failed; 2 wrong flags or an unsuitable machine, and the line says why.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """The flags as given. `grace` is in seconds. Ports are 1 to 65535 and differ from each other."""

    checkpoint: Path | None
    preset: str | None
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    frontend_port: int
    frontend: bool
    page: bool | None
    workers: int
    grace: int
    prepare_only: bool
    print_command: bool
    cpu: bool
    torch_index: str | None
    torch_plain: bool
    insecure: bool
    allowed_host: list[str]
    model_alias: list[str]
    api_key_file: Path | None
    json: bool

    @property
    def ports(self) -> dict[str, int]:
        """Flag -> the port that it sets, for every port that the server will listen on."""
        triton = {"--http-port": self.http_port, "--grpc-port": self.grpc_port, "--metrics-port": self.metrics_port}
        return triton | ({"--frontend-port": self.frontend_port} if self.frontend else {})

    @property
    def starts(self) -> bool:
        """Whether a server is to be started at all."""
        return not (self.prepare_only or self.print_command)

    @property
    def on_cpu(self) -> bool:
        """Whether SGLang runs on the CPU. The demo always does, even on a machine with a GPU."""
        return self.cpu or self.checkpoint is None

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        return ipaddress.IPv4Address(self.host).is_loopback

    @property
    def triton_host(self) -> str:
        """The address of Triton's own ports. They have no authentication, so only --insecure opens them to others."""
        return self.host if self.host != "localhost" and (self.loopback or self.insecure) else "127.0.0.1"

    def host_of(self, flag: str) -> str:
        """The address of the port that `flag` sets."""
        return self.host if flag == "--frontend-port" else self.triton_host


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refusal("wrong arguments", message, "see scripts/serve --help")


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes (at least 1)")
    return int(text)


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="scripts/serve",
        description="Bring up Triton with an SGLang engine and the kimi_k2 model, and keep it up until Ctrl-C.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kimi-k2-triton {__version__}")
    model = parser.add_argument_group("what to serve")
    model.add_argument("--checkpoint", metavar="DIR", type=_path, help="a Kimi K2 checkpoint (default: the demo)")
    model.add_argument("--preset", metavar="NAME", help="the engine settings and the demo to build (default: demo)")
    model.add_argument(
        "--model-alias",
        metavar="ID",
        action="append",
        default=[],
        help="another id of the model in the OpenAI and Anthropic APIs; repeatable (default: for a checkpoint of"
        " Kimi-K2-Instruct-0905 its published name)",
    )
    model.add_argument("--cpu", action="store_true", help="use the CPU although this machine has an NVIDIA GPU")
    where = parser.add_argument_group("where it listens")
    where.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="address to bind (default: %(default)s)")
    for name, port, what in (
        ("http", 8000, "Triton's HTTP: generate, generate_stream, health"),
        ("grpc", 8001, "Triton's gRPC"),
        ("metrics", 8002, "Prometheus metrics"),
        ("frontend", 9000, "OpenAI and Anthropic APIs"),
    ):
        where.add_argument(f"--{name}-port", metavar="PORT", type=_port, default=port, help=f"{what} (default: {port})")
    where.add_argument("--no-frontend", dest="frontend", action="store_false", help="open Triton's own ports only")
    where.add_argument(
        "--page", action=argparse.BooleanOptionalAction, help="the frontend's page at / (default: on a loopback --host)"
    )
    where.add_argument("--workers", metavar="N", type=_count, default=1, help="frontend processes (default: 1)")
    _add_guard(parser)
    life = parser.add_argument_group("start and stop")
    life.add_argument("--grace", metavar="S", type=_seconds, default=5, help="seconds for requests to end (default: 5)")
    life.add_argument("--prepare-only", action="store_true", help="install and build, but start nothing")
    life.add_argument("--print-command", action="store_true", help="print the tritonserver line and its environment")
    life.add_argument("--json", action="store_true", help="print the READY block as one line of JSON")
    install = parser.add_argument_group("where PyTorch comes from if your pip configuration offers no CPU build")
    install.add_argument(
        "--torch-index", metavar="URL", help="an index with CPU builds, such as https://download.pytorch.org/whl/cpu"
    )
    install.add_argument(
        "--torch-plain", action="store_true", help="the registry's wheel with its CUDA libraries: several GB more"
    )
    return parser


def _add_guard(parser: argparse.ArgumentParser) -> None:
    guard = parser.add_argument_group("who may connect (required unless --host is a loopback address)")
    guard.add_argument("--api-key-file", metavar="FILE", type=_path, help="API keys for the frontend, one per line")
    guard.add_argument(
        "--allowed-host", metavar="NAME", action="append", default=[], help="accept this Host name, too (frontend only)"
    )
    guard.add_argument("--insecure", action="store_true", help="open Triton's own ports at --host, too, without keys")


def parse_options(argv: Sequence[str]) -> Options:
    """Raise Refusal if a flag is invalid or two flags contradict each other."""
    options = Options(**vars(_parser().parse_args(argv)))
    if options.host != "localhost":
        try:
            ipaddress.IPv4Address(options.host)
        except ValueError:
            raise Refusal(
                f"--host {options.host}", "not an IPv4 address", "give one, such as 127.0.0.1 or 0.0.0.0"
            ) from None
    taken: dict[int, str] = {}
    for flag, port in options.ports.items():
        if port in taken:
            raise Refusal(f"{flag} {port}", f"{taken[port]} is the same port", "give each flag a port of its own")
        taken[port] = flag
    if not options.loopback and not (options.insecure or options.api_key_file):
        raise Refusal(
            f"--host {options.host}",
            "Triton's own ports have no authentication and other machines can reach this address",
            "add --api-key-file FILE (opens only the frontend there), or --insecure, or use a loopback address",
        )
    return options
