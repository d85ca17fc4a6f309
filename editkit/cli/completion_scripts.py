"""Completion scripts for bash, zsh and fish, written from a description of the commands.

The scripts hold all words: the shell completes them without a program of ours. Lists of names are
completed after each comma.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["SCRIPTS", "Command", "Flag", "Values"]

_LONGEST_HELP = 60


@dataclass(frozen=True)
class Values:
    """What a flag or a positional argument takes.

    Attributes:
        names: Words to complete.
        paths: ``file`` or ``folder`` if paths are completed, too; empty if not.
        several: Whether names are separated by commas.
        repeated: Whether a flag may be repeated, or a positional argument takes all that follow.
    """

    names: tuple[str, ...]
    paths: str
    several: bool
    repeated: bool


@dataclass(frozen=True)
class Flag:
    """A flag with its spellings; ``values`` is None if it takes none."""

    spellings: tuple[str, ...]
    help: str
    values: Values | None


@dataclass(frozen=True)
class Command:
    """A command, ``path`` being the words that name it: ``("patch", "check")``."""

    path: tuple[str, ...]
    summary: str
    flags: tuple[Flag, ...]
    positional: tuple[Values, ...]
    nested: tuple[Command, ...]


def _all(commands: Sequence[Command]) -> Iterator[Command]:
    for command in commands:
        yield command
        yield from _all(command.nested)


def _short(text: str) -> str:
    """The beginning of a help text, without characters that shells treat as special."""
    text = re.sub(r"[\[\]'\"`$\\{}]", "", " ".join(text.split()))
    if len(text) <= _LONGEST_HELP:
        return text
    return text[:_LONGEST_HELP].rpartition(" ")[0].rstrip(",:") + " ..."


# ---------------------------------------------------------------- bash

_BASH = """\
# bash completion of editkit, printed by: editkit completion bash

_editkit_commands() {  # what follows the words "$1"
    case "$1" in
@commands@
    esac
}

_editkit_flags() {  # the flags of the command "$1"
    case "$1" in
@flags@
    esac
}

_editkit_values() {  # what "$2", a flag or #N, takes in the command "$1": names, paths, list or one
    names="" paths="" list=""
    case "$1 $2" in
@values@
        *) return 1 ;;
    esac
}

_editkit() {
    local IFS=$' \\t\\n' cur=${COMP_WORDS[COMP_CWORD]} path="" flag="" count=0 word i
    local names paths list before=""
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == "=" ]]; then
            continue
        elif [[ -n $flag ]]; then
            flag=""
        elif [[ $word == -* ]]; then
            if _editkit_values "$path" "$word"; then flag=$word; fi
        elif [[ -n $(_editkit_commands "$path") ]]; then
            path="${path:+$path }$word"
        else
            count=$((count + 1))
        fi
    done
    [[ $cur == "=" ]] && cur=""
    if [[ -z $flag && $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$(_editkit_flags "$path")" -- "$cur"))
        return
    fi
    if [[ -z $flag && -n $(_editkit_commands "$path") ]]; then
        COMPREPLY=($(compgen -W "$(_editkit_commands "$path")" -- "$cur"))
        return
    fi
    if [[ -n $flag ]]; then
        _editkit_values "$path" "$flag"
    else
        _editkit_values "$path" "#$((count + 1))" || _editkit_values "$path" "#*" || return
    fi
    if [[ -n $list && $cur == *,* ]]; then
        before=${cur%,*},
        cur=${cur##*,}
    fi
    COMPREPLY=($(compgen -P "$before" -W "$names" -- "$cur"))
    if [[ -n $list ]]; then compopt -o nospace 2>/dev/null; fi
    if [[ -n $paths ]]; then
        compopt -o filenames 2>/dev/null
        IFS=$'\\n'
        if [[ $paths == folder ]]; then
            COMPREPLY+=($(compgen -d -- "$cur"))
        else
            COMPREPLY+=($(compgen -f -- "$cur"))
        fi
    fi
}

complete -F _editkit editkit
"""


def bash_script(commands: Sequence[Command]) -> str:
    """The script for bash."""
    every = list(_all(commands))
    after = {"": [command.path[-1] for command in commands]}
    after |= {" ".join(c.path): [each.path[-1] for each in c.nested] for c in every if c.nested}
    flags = {"": ["--help", "--version"]}
    values: dict[str, list[str]] = {}
    for command in every:
        path = " ".join(command.path)
        flags[path] = [flag.spellings[-1] for flag in command.flags]
        for flag in command.flags:
            if flag.values is not None:
                own = values.setdefault(_bash_values(flag.values), [])
                own += [f"{path} {spelling}" for spelling in flag.spellings]
        for number, each in enumerate(command.positional, 1):
            place = "*" if each.repeated else str(number)
            values.setdefault(_bash_values(each), []).append(f"{path} #{place}")
    patterns = {"|".join(f'"{key}"' for key in keys): text for text, keys in values.items()}
    return (
        _BASH.replace("@commands@", _bash_cases({k: _echo(v) for k, v in after.items()}))
        .replace("@flags@", _bash_cases({k: _echo(v) for k, v in flags.items()}))
        .replace("@values@", _bash_cases(patterns, quoted=False))
    )


def _echo(words: Sequence[str]) -> str:
    return f"echo {shlex.quote(' '.join(words))}"


def _bash_cases(cases: Mapping[str, str], *, quoted: bool = True) -> str:
    return "\n".join(
        f"        {shlex.quote(key) if quoted else key}) {text} ;;" for key, text in cases.items()
    )


def _bash_values(values: Values) -> str:
    names = shlex.quote(" ".join(values.names))
    return f"names={names} paths={values.paths or repr('')} list={int(values.several) or repr('')}"


# ---------------------------------------------------------------- zsh

_ZSH = """\
#compdef editkit
# zsh completion of editkit, printed by: editkit completion zsh

_editkit_names_and_paths() {  # file or folder, then names
    local paths=$1
    compadd -- ${@:2}
    if [[ $paths == folder ]]; then _files -/; else _files; fi
}

@functions@

if [[ ${funcstack[1]} == _editkit ]]; then
    _editkit "$@"
else
    compdef _editkit editkit
fi
"""


def zsh_script(commands: Sequence[Command]) -> str:
    """The script for zsh."""
    top = Command(
        (), "", (Flag(("-V", "--version"), "print the version", None),), (), tuple(commands)
    )
    functions = [_zsh_function(each) for each in (*_all(commands), top)]
    return _ZSH.replace("@functions@", "\n\n".join(functions))


def _zsh_name(path: Sequence[str]) -> str:
    return "_".join(("_editkit", *path)).replace("-", "_")


def _zsh_function(command: Command) -> str:
    specs = [_zsh_flag(flag) for flag in command.flags]
    if not command.nested:
        for number, values in enumerate(command.positional, 1):
            place = "*" if values.repeated else str(number)
            specs.append(shlex.quote(f"{place}:argument:{_zsh_action(values)}"))
        lines = " \\\n        ".join(["_arguments -s -S", *specs])
        return f"{_zsh_name(command.path)}() {{\n    {lines}\n}}"
    specs += ["'1:command:->command'", "'*::argument:->argument'"]
    lines = " \\\n        ".join(["_arguments -C -S", *specs])
    described = "\n".join(
        f"                {shlex.quote(f'{each.path[-1]}:{_short(each.summary)}')}"
        for each in command.nested
    )
    cases = "\n".join(
        f"                {each.path[-1]}) {_zsh_name(each.path)} ;;" for each in command.nested
    )
    return f"""{_zsh_name(command.path)}() {{
    local curcontext="$curcontext" context state line
    typeset -A opt_args
    {lines}
    case $state in
        command)
            local -a commands=(
{described}
            )
            _describe -t commands command commands
            ;;
        argument)
            case $words[1] in
{cases}
            esac
            ;;
    esac
}}"""


def _zsh_flag(flag: Flag) -> str:
    text = _short(flag.help).replace(":", "\\:")
    action = "" if flag.values is None else f":{flag.spellings[-1]}:{_zsh_action(flag.values)}"
    again = flag.values is not None and (flag.values.several or flag.values.repeated)
    excluded = "*" if again else f"({' '.join(flag.spellings)})"
    spellings = list(flag.spellings)
    if flag.values is not None:  # --out X, --out=X, -o X and -oX
        spellings = [f"{each}{'=' if each.startswith('--') else '+'}" for each in spellings]
    spelled = "{" + ",".join(spellings) + "}" if len(spellings) > 1 else spellings[0]
    return f"{shlex.quote(excluded)}{spelled}{shlex.quote(f'[{text}]{action}')}"


def _zsh_action(values: Values) -> str:
    names = " ".join(name.replace(":", "\\:") for name in values.names)
    paths = {"file": "_files", "folder": "_files -/", "": ""}[values.paths]
    if values.several:
        return f"_sequence compadd - {names}" if names else " "
    if names and paths:
        return f"{{_editkit_names_and_paths {values.paths} {names}}}"
    return f"({names})" if names else paths or " "


# ---------------------------------------------------------------- fish

_FISH = """\
# fish completion of editkit, printed by: editkit completion fish

function __editkit_at --description 'whether these words name the command on the line'
    set -l words (commandline -opc)
    for i in (seq (count $argv))
        test "$words["(math $i + 1)"]" = "$argv[$i]"; or return 1
    end
end

function __editkit_before --description 'whether the next word names a command below these words'
    set -l words (commandline -opc)
    test (count $words) -eq (math (count $argv) + 1); and __editkit_at $argv
end

function __editkit_list --description 'names after the last comma of the current word'
    set -l before (commandline -ct | string replace -r '^--[^=]*=' '')
    set before (string replace -r '[^,]*$' '' -- "$before")
    printf '%s\\n' "$before"$argv
end

complete -c editkit -f
complete -c editkit -n __editkit_before -s V -l version -d 'print the version'
@lines@
"""


def fish_script(commands: Sequence[Command]) -> str:
    """The script for fish."""
    lines = [_fish_command(command) for command in commands]
    for command in _all(commands):
        at = shlex.quote(" ".join(("__editkit_at", *command.path)))
        lines += [_fish_command(each) for each in command.nested]
        if command.nested:
            continue
        for flag in command.flags:
            spelled = " ".join(
                f"-l {each[2:]}" if each.startswith("--") else f"-s {each[1:]}"
                for each in flag.spellings
            )
            text = shlex.quote(_short(flag.help))
            lines.append(
                f"complete -c editkit -n {at} {spelled}{_fish_values(flag.values)} -d {text}"
            )
        for values in dict.fromkeys(command.positional):
            lines.append(f"complete -c editkit -n {at}{_fish_positional(values)}")
    return _FISH.replace("@lines@", "\n".join(lines))


def _fish_command(command: Command) -> str:
    *before, name = command.path
    condition = shlex.quote(" ".join(("__editkit_before", *before)))
    return f"complete -c editkit -n {condition} -a {name} -d {shlex.quote(_short(command.summary))}"


def _fish_values(values: Values | None) -> str:
    if values is None:
        return ""
    names = " ".join(values.names)
    if values.several and names:
        return f" -x -a '(__editkit_list {names})'"
    kind = {"file": " -r -F", "folder": " -x -a '(__fish_complete_directories)'", "": " -x"}
    return kind[values.paths] + (f" -a {shlex.quote(names)}" if names else "")


def _fish_positional(values: Values) -> str:
    kind = {"file": " -F", "folder": " -a '(__fish_complete_directories)'", "": ""}
    return kind[values.paths] + (
        f" -a {shlex.quote(' '.join(values.names))}" if values.names else ""
    )


SCRIPTS: Mapping[str, Callable[[Sequence[Command]], str]] = {
    "bash": bash_script,
    "zsh": zsh_script,
    "fish": fish_script,
}
"""The writer of the script of each shell."""
