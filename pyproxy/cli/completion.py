"""`pyproxy completion`: what a shell needs to complete the commands and their options."""

import argparse
from typing import Any

_BASH = """\
# bash completion of pyproxy: source <(pyproxy completion bash)
_pyproxy() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands} --help --version"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [ "${{#COMPREPLY[@]}}" -eq 0 ]; then
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _pyproxy pyproxy
"""
_BASH_CASE = '            {command}) words="{words}" ;;'
_ZSH = """\
#compdef pyproxy
# zsh completion of pyproxy: source <(pyproxy completion zsh)
_pyproxy() {{
    if (( CURRENT == 2 )); then
        local -a commands=(
{commands}
        )
        _describe command commands
        return
    fi
    case "$words[2]" in
{cases}
    esac
    _files
}}
compdef _pyproxy pyproxy
"""
_ZSH_CASE = "        {command}) compadd -- {words} ;;"
_FISH = "# fish completion of pyproxy: pyproxy completion fish | source"


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "completion",
        help="print what a shell needs to complete pyproxy's commands",
        description="For the running shell: source <(pyproxy completion bash), likewise with zsh;"
        " pyproxy completion fish | source.",
        allow_abbrev=False,
    )
    command.add_argument("shell", choices=("bash", "zsh", "fish"))
    command.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Print the script."""
    from pyproxy.cli import parser

    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell]
    print(write(_commands(parser())), end="")
    return 0


def _commands(root: argparse.ArgumentParser) -> dict[str, tuple[str, list[str]]]:
    """Each command with its help and the words that may follow it."""
    (subparsers,) = (a for a in root._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    return {name: (helps[name], _words(found)) for name, found in subparsers.choices.items()}


def _words(command: argparse.ArgumentParser) -> list[str]:
    words: list[str] = []
    for action in command._actions:
        words += action.option_strings
        words += map(str, action.choices or ())
    return words


def _bash(commands: dict[str, tuple[str, list[str]]]) -> str:
    cases = [
        _BASH_CASE.format(command=name, words=" ".join(words))
        for name, (_, words) in commands.items()
    ]
    return _BASH.format(commands=" ".join(commands), cases="\n".join(cases))


def _zsh(commands: dict[str, tuple[str, list[str]]]) -> str:
    described = [f"            {_quoted(f'{name}:{text}')}" for name, (text, _) in commands.items()]
    cases = [
        _ZSH_CASE.format(command=name, words=" ".join(words))
        for name, (_, words) in commands.items()
    ]
    return _ZSH.format(commands="\n".join(described), cases="\n".join(cases))


def _fish(commands: dict[str, tuple[str, list[str]]]) -> str:
    told = [_FISH]
    for name, (text, words) in commands.items():
        first = f"complete -c pyproxy -n __fish_use_subcommand -a {name}"
        told.append(f"{first} -d {_quoted(text)}")
        seen = f"complete -c pyproxy -n '__fish_seen_subcommand_from {name}'"
        for word in words:
            if word.startswith("--"):
                told.append(f"{seen} -l {word[2:]}")
            elif word.startswith("-"):
                told.append(f"{seen} -s {word[1:]}")
            else:
                told.append(f"{seen} -a {word}")
    return "\n".join(told) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
