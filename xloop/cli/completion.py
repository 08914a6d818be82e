# SPDX-License-Identifier: MIT
"""``xloop completion``: print what makes a shell complete the words of xloop.

Owns the command, and how the shells ask.  Does not own what is proposed (:mod:`xloop.cli.proposals`).

click does the asking, but it has no words with commas or ``=`` in mind: its script for bash goes by bash's idea
of words, which end at ``=`` and ``:``, and leaves blanks unquoted; that for fish cuts at commas.
"""

from __future__ import annotations

import os
import re

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

__all__ = ["SHELLS", "completion"]

SHELLS = ("bash", "zsh", "fish")

#: Asks with the line up to the cursor.  The first line of the answer is what readline will leave as it is.
_BASH = """\
%(complete_func)s() {
    local cut= type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            cut) cut=$value ;;
            dir) compopt -o plusdirs ;;
            file) compopt -o default ;;
            plain)
                [[ $value == *= ]] && compopt -o nospace
                COMPREPLY+=("${value#"$cut"}") ;;
        esac
    done < <(COMP_LINE=${COMP_LINE:0:COMP_POINT} COMP_WORDBREAKS=$COMP_WORDBREAKS \\
        %(complete_var)s=bash_complete "${1/#~/"$HOME"}" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class _Bash(BashComplete):
    source_template = _BASH

    def source(self) -> str:
        return ShellComplete.source(self)  # not BashComplete's, which looks for a bash to try

    def get_completion_args(self) -> tuple[list[str], str]:
        # With a letter more, the last word is the one at the cursor, whatever comes before.
        words = split_arg_string(os.environ["COMP_LINE"] + "x")
        return words[1:-1], words[-1][:-1]

    def complete(self) -> str:
        args, incomplete = self.get_completion_args()
        typed = _last_word(os.environ["COMP_LINE"])
        breaks = re.escape(re.sub(r"[\s'\"]", "", os.environ.get("COMP_WORDBREAKS", "")))
        cut = None
        if breaks and "'" not in typed and '"' not in typed:
            cut = re.fullmatch(rf"(.*(?<!\\)[{breaks}]).*", typed)
        # Unquoted and quoted again, for a person need not have quoted it as we do.
        lines = ["cut," + _quoted("".join(split_arg_string(cut[1])) if cut else "")]
        for item in self.get_completions(args, incomplete):
            quote = item.type == "plain" and typed[:1] not in ("'", '"')
            lines.append(f"{item.type},{_quoted(item.value) if quote else item.value}")
        return "\n".join(lines)


def _quoted(text: str) -> str:
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", text)


def _last_word(line: str) -> str:
    """Return the word at the end of *line* as it was typed, quotes and all."""
    begin, quote, escaped = 0, "", False
    for index, char in enumerate(line):
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            begin = index + 1
    return line[begin:]


@add_completion_class
class _Zsh(ZshComplete):
    def format_completion(self, item: CompletionItem) -> str:
        # zsh puts a backslash before a "~", and then it means no home any more.
        return super().format_completion(
            CompletionItem(os.path.expanduser(item.value), item.type, item.help)
        )


_FISH = """\
function %(complete_func)s
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \
        COMP_CWORD=(commandline -t) %(prog_name)s 2>/dev/null)
    for completion in $response
        set -l metadata (string split --max 1 "," $completion)
        switch $metadata[1]
            case dir
                __fish_complete_directories $metadata[2]
            case file
                __fish_complete_path $metadata[2]
            case plain
                echo $metadata[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


@add_completion_class
class _Fish(FishComplete):
    source_template = _FISH


_EPILOG = """\b
Examples:
  eval "$(xloop completion bash)"          in ~/.bashrc; needs bash 4.4
  eval "$(xloop completion zsh)"           in ~/.zshrc, after compinit
  xloop completion fish > ~/.config/fish/completions/xloop.fish
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that makes SHELL complete commands, options, mountpoints and names."""
    kind = get_completion_class(shell)
    assert kind is not None
    program = click.get_current_context().find_root()
    click.echo(kind(program.command, {}, "xloop", "_XLOOP_COMPLETE").source(), nl=False)
