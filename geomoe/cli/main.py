"""One command for all: `geomoe COMMAND ...`; `geomoe completion bash` for the completion of a shell."""

import contextlib
import importlib
import io
import re
import sys

from geomoe.cli.setup import clear_errors

COMMANDS = {
    "prepare": "convert a source into records, once",
    "train": "pretrain, by a config file",
    "probe": "probe a frozen encoder, by a config file",
    "embed": "embed a dataset, a folder of patches or a scene into a file",
    "search": "find places that look like another in a file of embeddings",
    "catalogue": "embed many scenes, each to a file of its own",
    "report": "write a run's report",
    "convert": "write an encoder in another form",
    "recipes": "compare recipes at equal time",
    "corpus": "cut the corpus of real imagery, and score encoders on the images held out",
    "bench": "measure the speed of this machine",
    "info": "say what a scene, a run, a file of embeddings or of weights is",
}
_CONFIG_COMMANDS = ("train", "probe")  # whose flags are absl's
_BASH = """\
_geomoe() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}"
  case "$COMP_CWORD:$command" in
  1:*) COMPREPLY=($(compgen -W "{commands}" -- "$word"));;
{cases}\
  esac
  [[ $word == -* || $COMP_CWORD == 1 ]] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _geomoe geomoe
"""
_SHELLS = {"bash": _BASH, "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}"}


def options(command: str) -> list[str]:
    """List the options of a command, from its own help."""
    if command in _CONFIG_COMMANDS:
        source = importlib.import_module(f"geomoe.cli.{command}").__file__ or ""
        with open(source, encoding="utf-8") as file:
            return [f"--{name}" for name in re.findall(r'DEFINE_\w+\("(\w+)"', file.read())]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        importlib.import_module(f"geomoe.cli.{command}").main(["--help"])
    return sorted(set(re.findall(r"--\w+", text.getvalue())))


def completion(shell: str) -> str:
    """Write the completion of a shell: commands, their options, and files."""
    if shell not in _SHELLS:
        raise ValueError(f"completion for {shell!r} is not there; there is {', '.join(_SHELLS)}")
    cases = "".join(f'  *:{name}) COMPREPLY=($(compgen -W "{" ".join(options(name))}" -- "$word"));;\n' for name in COMMANDS)
    return _SHELLS[shell].format(commands=" ".join(COMMANDS), cases=cases)


def usage() -> str:
    """What there is to type."""
    lines = "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items())
    more = "geomoe COMMAND --help says more; geomoe completion bash|zsh prints a completion"
    return f"usage: geomoe COMMAND ...\n\n{lines}\n\n{more}"


def main(argv: list[str]) -> None:
    if argv[:1] == ["completion"]:
        print(completion(argv[1] if len(argv) > 1 else ""), end="")
    elif not argv or argv[0] in ("-h", "--help"):
        print(usage())
    elif argv[0] == "--version":
        from geomoe.version import __version__

        print(f"geomoe {__version__}")
    elif argv[0] not in COMMANDS:
        raise ValueError(f"unknown command {argv[0]!r}; there are {', '.join(COMMANDS)}")
    else:
        importlib.import_module(f"geomoe.cli.{argv[0]}").main(argv[1:])


def run() -> int:
    """Run the command with the arguments of the process; its exit code."""
    if sys.argv[1:2] and sys.argv[1] in _CONFIG_COMMANDS:
        command = sys.argv.pop(1)
        exit_code: int = importlib.import_module(f"geomoe.cli.{command}").run()
        return exit_code
    return clear_errors(main, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
