"""The command line: a thin layer over the public API. Each command is one file in prunebench.commands."""

import argparse
import difflib
import importlib
import json
import keyword
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from prunebench import __version__
from prunebench.core.errors import InvalidInput, PrunebenchError, unknown_name
from prunebench.core.problem import DATA_VARIABLE
from prunebench.quiet import quiet
from prunebench.signals import terminable

COMMANDS = {
    "demo": "train a small network and let every solver family prune it",
    "solvers": "list the solvers, their capabilities and options",
    "coordinators": "list the coordinators and their options",
    "recipes": "list the recipes, named ways to prune, with what they are good for",
    "structure": "list the channels, neurons and heads of a network that can be pruned as a whole",
    "warm": "compile the solvers' kernels ahead",
    "problems": "list the problems, their options, and whether their data are there",
    "block": "cut one block problem out of a network into a file",
    "samples": "choose calibration samples as a block problem, for --subset",
    "site": "write what one site's samples say of the weights, for a block of several sites",
    "merge": "merge what several sites wrote into one block problem",
    "solve": "solve a block problem file",
    "verify": "re-evaluate a solution's objective and bound independently of its solver",
    "import": "make a block of a problem that was written elsewhere",
    "export": "hand a block to another ecosystem",
    "export-model": "write a pruned network as a Hugging Face folder or packed, or a smaller one as a file",
    "time": "how fast a smaller network runs beside the dense one",
    "prune": "prune a whole network",
    "retrain": "train what a finished run kept, by a protocol",
    "compare": "let solvers compete for the same blocks",
    "study": "ask what a mask's objective is worth: is the mask of lowest loss the best after training, and why",
    "suite": "block problems that anyone has: list, run one solver, check and rank files of results",
    "report": "one self-contained page with every figure of runs, comparisons and studies",
    "resume": "continue an interrupted run",
    "evaluate": "accuracy or perplexity, and loss, of a network, dense or pruned",
}
"""The commands in the order of the help, with what each does."""

COMPLETION = "--completion"
"""The option that prints a script for a shell."""

DONE = 0
"""Exit code: the work is done."""
FAILED = 1
"""Exit code: the work failed, was interrupted, or a run lost blocks."""
WRONG_REQUEST = 2
"""Exit code: the request is wrong, and the message says what to change."""
NOT_DERIVED = 3
"""Exit code of verify: nothing is wrong, but the bound was not derived again."""


class _Parser(argparse.ArgumentParser):
    """Errors are InvalidInput and name the option that was probably meant. `of` holds the parsers of commands."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.of: dict[str, _Parser] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; what was given is remembered for `error`."""
        self._given = [str(word) for word in args or ()]
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InvalidInput(f"{self.prog}: {message}; {self._near()}'{self.prog} --help' lists the arguments")

    def _near(self) -> str:
        """Which options were meant by those that do not exist, as a part of a sentence."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        hints = []
        for word in getattr(self, "_given", ()):
            option = word.partition("=")[0]
            if option.startswith("--") and not any(name.startswith(option) for name in known):
                near = difflib.get_close_matches(option, known, n=1)
                hints += [f"{option}: did you mean {near[0]}? "] if near else []
        return "".join(hints)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 the work failed, 2 the request is wrong, 3 `verify` found nothing wrong but could not derive all.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        with terminable():
            return _run(given)
    except InvalidInput as error:
        failure, code = str(error), WRONG_REQUEST
        if debug:
            raise
    except PrunebenchError as error:
        failure, code = str(error), FAILED
        if debug:
            raise
    except KeyboardInterrupt:
        failure, code = "interrupted", FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        failure, code = f"{type(error).__name__}: {error} (run again with --debug for the traceback)", FAILED
        if debug:
            raise
    print(f"prunebench: error: {' '.join(failure.split())}", file=sys.stderr)
    return code


def _run(given: list[str]) -> int:
    name = given[0] if given else "help"
    if name in ("-h", "--help", "help"):
        print(parser(()).format_help(), end="")
        return DONE
    if name == "--version":
        print(f"prunebench {__version__}")
        return DONE
    if name == COMPLETION:
        print(_completion(given[1:]))
        return DONE
    if name.startswith("-"):
        parser(()).error(f"the first argument must be a command, not {name}")
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    command, top = command_module(name), parser((name,))
    parsed, rest = top.parse_known_args(given)
    if rest:
        told = parts(top.of[name]).get(str(getattr(parsed, "part", "")), top.of[name])
        told.error(f"unrecognized arguments: {' '.join(rest)}")
    if parsed.data:
        os.environ[DATA_VARIABLE] = parsed.data
    with quiet():
        result = command.run(parsed)
    if parsed.json:
        for record in result if isinstance(result, list) else [result]:
            print(json.dumps(_jsonable(record), allow_nan=False))
    else:
        print(command.text(result))
    failure = getattr(command, "failure", None)
    if failure is not None and (words := failure(result)):
        raise PrunebenchError(words)
    return _exit_code(result)


def parser(loaded: Iterable[str] = tuple(COMMANDS)) -> _Parser:
    """The parser of the whole program, `of` holding those of its commands.

    loaded : the commands whose arguments it knows; finding out the arguments of others takes their imports
    """
    top = _Parser(
        prog="prunebench", usage="prunebench COMMAND [ARGUMENTS]", description=__import__("prunebench").__doc__,
        epilog=f"'prunebench COMMAND --help' tells a command's arguments; 'prunebench {COMPLETION} SHELL' prints what "
        "completes them.", add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=4 + max(map(len, COMMANDS)) + 2),
    )  # fmt: skip
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command_name", prog="prunebench")
    for name, what in COMMANDS.items():
        known = name in loaded
        module = command_module(name) if known else None
        added = commands.add_parser(name, help=what, description=module.__doc__ if module else None, add_help=known)
        top.of[name] = added
        if module is not None:
            module.add_arguments(added)
            add_common(added)
            for part in parts(added).values():
                # left out there, an argument keeps what stands before the part's name
                add_common(part, default=argparse.SUPPRESS)
    return top


def _completion(words: Sequence[str]) -> str:
    """A script that completes commands, options, names and files, for a shell."""
    import shtab

    from prunebench.core.registry import COORDINATORS, PROBLEMS, SOLVERS

    if len(words) != 1 or words[0] not in shtab.SUPPORTED_SHELLS:
        raise InvalidInput(
            f"{COMPLETION} takes one of {', '.join(shtab.SUPPORTED_SHELLS)}, as 'prunebench {COMPLETION} bash'"
        )
    whole = parser()
    names = {"solver": SOLVERS.names(), "problem": PROBLEMS.names(), "coordinator": COORDINATORS.names()}
    for command in whole.of.values():
        for action in command._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads it
            elif action.dest in names and action.choices is None:
                action.choices = names[action.dest]
    return str(shtab.complete(whole, shell=words[0]))


def command_module(name: str) -> ModuleType:
    """The module of a command; one whose name is a word of Python ends in an underscore."""
    word = name.replace("-", "_")
    return importlib.import_module(f"prunebench.commands.{word}{'_' if keyword.iskeyword(word) else ''}")


def _exit_code(result: Any) -> int:
    """What a command's result says of its own success."""
    if not isinstance(result, dict):
        return DONE
    if result.get("failed_solves"):
        return FAILED
    return {"not verified": FAILED, "consistent": NOT_DERIVED}.get(str(result.get("verdict")), DONE)


def parts(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command's own commands, by name; most commands have none."""
    held = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: part for action in held for name, part in action.choices.items()}


def add_common(parser: argparse.ArgumentParser, **default: Any) -> None:
    """The arguments that all commands have."""
    common = parser.add_argument_group("common")
    common.add_argument("--json", action="store_true", help="print JSON on standard output and nothing else", **default)
    common.add_argument("--quiet", action="store_true", help="no progress on standard error", **default)
    common.add_argument(
        "--data", metavar="DIR", help=f"where data sets are; default ${DATA_VARIABLE}, else the user cache", **default
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error", **default)


def _jsonable(record: Any) -> Any:
    from prunebench.core.solution_file import plain

    return plain(record)


if __name__ == "__main__":
    sys.exit(main())
