"""`kimi-k2 completion SHELL`: a script for the shell, made from the commands and their options."""

from __future__ import annotations

import argparse
import shlex

from kimi_k2_cli.commands import COMMANDS

BASH = """_kimi_k2() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if ((COMP_CWORD == 1)); then words="{commands} --help --version"; else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  ((${{#COMPREPLY[@]}})) || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _kimi_k2 kimi-k2"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.epilog = (
        "example: kimi-k2 completion bash > ~/.local/share/bash-completion/completions/kimi-k2\n"
        "         kimi-k2 completion fish > ~/.config/fish/completions/kimi-k2.fish"
    )


def run(args: argparse.Namespace) -> int:
    options = {name: options_of(name) for name in COMMANDS}
    print(fish(options) if args.shell == "fish" else bash(options, is_zsh=args.shell == "zsh"))
    return 0


def options_of(name: str) -> list[str]:
    """The long options of a command, and the choices of its arguments."""
    from kimi_k2_cli.main import parser_of

    words = ["--help"]
    for action in parser_of(name)._actions:
        words += [each for each in action.option_strings if each.startswith("--") and each not in words]
        if not action.option_strings and action.choices:
            words += [str(each) for each in action.choices]
    return words


def bash(options: dict[str, list[str]], *, is_zsh: bool) -> str:
    cases = "\n".join(f'      {name}) words="{" ".join(words)}" ;;' for name, words in options.items())
    script = BASH.format(commands=" ".join(options), cases=cases)
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if is_zsh else script


def fish(options: dict[str, list[str]]) -> str:
    lines = ["complete -c kimi-k2 -f -n __fish_use_subcommand -a --version"]
    for name, words in options.items():
        told = shlex.quote(COMMANDS[name].summary)
        lines.append(f"complete -c kimi-k2 -f -n __fish_use_subcommand -a {name} -d {told}")
        for word in words:
            seen = f"'__fish_seen_subcommand_from {name}'"
            flag = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c kimi-k2 -n {seen} {flag}")
    return "\n".join(lines)
