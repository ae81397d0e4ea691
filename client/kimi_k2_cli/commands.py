"""The commands in groups, each with one line of help and an example. Importing this imports no command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CommandHelp:
    """`module` has `configure(parser)` and `run(args) -> int`."""

    module: str
    summary: str
    example: str


GROUPS: dict[str, dict[str, CommandHelp]] = {
    "Talk to a server": {
        "chat": CommandHelp(
            "kimi_k2_cli.chat", "one prompt, or a conversation in the terminal", 'chat "What is a mixture of experts?"'
        ),
        "complete": CommandHelp(
            "kimi_k2_cli.complete", "continue a text, without the chat's template", 'complete "Once upon a time"'
        ),
        "batch": CommandHelp(
            "kimi_k2_cli.batch", "a file of OpenAI batch requests -> a file of answers", "batch in.jsonl out.jsonl"
        ),
    },
    "Run a server": {
        "serve": CommandHelp("kimi_k2_cli.serve", "start the server of this checkout (scripts/serve)", "serve"),
        "status": CommandHelp("kimi_k2_cli.status", "whether a server is up, its models and its load", "status --json"),
        "wait": CommandHelp("kimi_k2_cli.wait", "return as soon as the model takes requests", "wait --timeout 300"),
        "doctor": CommandHelp("kimi_k2_cli.doctor", "check this machine, and say what to mend", "doctor"),
        "worker": CommandHelp(
            "kimi_k2_cli.worker",
            "run a further node of an engine over several",
            "worker --preset h200-16 --node-rank 1",
        ),
        "plan": CommandHelp(
            "kimi_k2_cli.plan", "whether K2 fits on some GPUs, the preset, rooflines", "plan --gpu b200 --gpus 8"
        ),
    },
    "Check a server": {
        "verify": CommandHelp(
            "kimi_k2_cli.verify.command",
            "hold any OpenAI-compatible K2 endpoint to what K2 promises",
            "verify http://127.0.0.1:9000/v1",
        ),
        "bench": CommandHelp(
            "kimi_k2_cli.bench.command", "measure with aiperf, guidellm or perf_analyzer", "bench http://127.0.0.1:9000"
        ),
    },
    "Look inside, without a server": {
        "render": CommandHelp(
            "kimi_k2_cli.render",
            "an OpenAI chat request on stdin -> the K2 prompt, its ids and its segments",
            "render < request.json",
        ),
        "tokenize": CommandHelp(
            "kimi_k2_cli.tokenize",
            "text on stdin -> a JSON list of ids; control tokens are plain text",
            "tokenize < a.txt",
        ),
        "detokenize": CommandHelp(
            "kimi_k2_cli.detokenize", "a JSON list of ids on stdin -> text", "detokenize < ids.json"
        ),
        "parse": CommandHelp(
            "kimi_k2_cli.parse",
            "an answer's ids or text on stdin -> OpenAI deltas, one JSON object per line",
            "parse < answer.json",
        ),
        "grammar": CommandHelp(
            "kimi_k2_cli.grammar",
            "an OpenAI chat request on stdin -> the grammar of its answer, and random answers to test it",
            "grammar < request.json",
        ),
        "tokenizer": CommandHelp(
            "kimi_k2_cli.tokenizer", "write the checkpoint's tokenizer.json to a directory", "tokenizer --export DIR"
        ),
    },
    "Shell": {
        "completion": CommandHelp(
            "kimi_k2_cli.completion", "print the completion of bash, zsh or fish", "completion bash"
        ),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


def overview() -> str:
    """The text of `kimi-k2 --help`."""
    lines = ["usage: kimi-k2 COMMAND [OPTIONS]", "", "Talk to Kimi K2 on Triton, run it, check it and look inside it."]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, entry in commands.items():
            lines += [f"  {name:<11} {entry.summary}", f"{'':<14}kimi-k2 {entry.example}"]
    lines += [
        "",
        "kimi-k2 COMMAND --help shows a command's options; kimi-k2 --version the version.",
        "Exit codes: 0 success; 1 the command, the check or the server failed; 2 the command or the request is wrong;",
        "130 stopped with Ctrl-C. NO_COLOR turns colours off.",
    ]
    return "\n".join(lines)
