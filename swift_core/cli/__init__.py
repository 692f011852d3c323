"""The command ``swift``. Building the parser imports nothing heavy; each command imports what it needs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from swift_core.cli.label_parsers import add_labels, add_labels_file
from swift_core.errors import PluginError, SwiftError, UserError, did_you_mean, listed

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130

_HANDLERS = {
    "train": "swift_core.cli.work:train",
    "evaluate": "swift_core.cli.work:evaluate",
    "export": "swift_core.cli.work:export",
    "check": "swift_core.cli.work:check",
    "compare": "swift_core.cli.compare:compare_runs",
    "tasks": "swift_core.cli.show:tasks",
    "describe": "swift_core.cli.show:describe",
    "plugins": "swift_core.cli.plugins:plugins",
    "runs": "swift_core.cli.runs:runs",
    "gate": "swift_core.cli.runs:gate",
    "labels": "swift_core.cli.labels:labels",
    "new": "swift_core.new.command:new",
}
OWN_COMMANDS = tuple(_HANDLERS)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse counts what may be left out (nargs="*") among what is missing.
        message = message.replace(", option=value", "")
        if "required: RUN.yaml" in message:
            message += " (it comes first, before --resume and other flags)"
        self.exit(_EXIT_USAGE, f"swift: {message}\nTry: {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the built-in commands."""
    from swift_core import __version__

    parser = _Parser(
        prog="swift", description="Fine-tune models; every task type is a package.", epilog=_plugin_commands()
    )
    parser.add_argument("--version", action="version", version=f"swift-core {__version__}")
    # Not required: argparse would ask for a command where a flag is unknown.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_work(commands)
    _add_compare(commands)
    _add_show(commands)
    _add_runs(commands)
    add_labels(commands.add_parser("labels", help="show, check and change the labels of a project"))
    _add_new(commands)
    return parser


def _add_work(commands: argparse._SubParsersAction[_Parser]) -> None:
    train = commands.add_parser("train", help="train a model as a run file says")
    train.add_argument("run_file", metavar="RUN.yaml")
    train.add_argument(
        "options", nargs="*", metavar="option=value", help="options that win over the run file"
    )
    train.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with an interrupted run: the folder named, or the newest with these options",
    )
    check = commands.add_parser("check", help="check a run file and every row of its data; build nothing")
    check.add_argument("run_file", metavar="RUN.yaml")
    check.add_argument("options", nargs="*", metavar="option=value")
    evaluate = commands.add_parser("evaluate", help="measure the model of a run")
    evaluate.add_argument("run", metavar="RUN", help="folder of a run")
    evaluate.add_argument("options", nargs="*", metavar="option=value")
    export = commands.add_parser("export", help="export the model of a run")
    export.add_argument("run", metavar="RUN", help="folder of a run")
    export.add_argument(
        "--format", action="append", required=True, help="one of the task's export formats; may be repeated"
    )
    export.add_argument("options", nargs="*", metavar="option=value")
    export.add_argument(
        "--despite-gates", action="store_true", help="also when the run failed the gates of its label"
    )
    for command in (train, check, evaluate, export):
        command.add_argument("--json", action="store_true", help="print the result as JSON on stdout")


def _add_compare(commands: argparse._SubParsersAction[_Parser]) -> None:
    compare = commands.add_parser("compare", help="compare two runs that were evaluated on the same data")
    add = compare.add_argument
    add("run_a", metavar="RUN_A", help="folder of a run")
    add("run_b", metavar="RUN_B", help="folder of another run, or the same with two steps")
    add("--step", metavar="N[,N]", help="training step, or one for each run; default: the newest evaluated")
    add("--table", metavar="NAME", help="which table of evaluations/step-N/, where there are several")
    add("--metric", metavar="NAME", action="append", default=[], help="only this one; may be given again")
    add("--common", action="store_true", help="leave out the rows that only one run has")
    add("--seed", type=int, default=0, help="of the bootstrap's draws (default: 0)")
    add("--json", action="store_true", help="print the result as JSON on stdout")


def _add_show(commands: argparse._SubParsersAction[_Parser]) -> None:
    tasks = commands.add_parser("tasks", help="list the installed task types")
    describe = commands.add_parser(
        "describe", help="show a task type's columns, options, metrics and exports"
    )
    describe.add_argument("task", metavar="TASK")
    describe.add_argument(
        "--all", action="store_true", help="also the options of transformers.TrainingArguments"
    )
    describe.add_argument("--json-schema", action="store_true", help="JSON Schema of a run file of this task")
    plugins = commands.add_parser(
        "plugins", help="list installed packages, with versions, faults and conflicts"
    )
    for command in (tasks, describe, plugins):
        command.add_argument("--json", action="store_true", help="print JSON")


def _add_runs(commands: argparse._SubParsersAction[_Parser]) -> None:
    runs = commands.add_parser("runs", help="list the runs of a folder, newest first")
    runs.add_argument("output_dir", metavar="OUTPUT_DIR", nargs="?", default="output", help="default: output")
    runs.add_argument(
        "--task-type", metavar="NAME", help="only those of a label, former names included, or of a task type"
    )
    gate = commands.add_parser("gate", help="judge a run by the gates of its label; exit code 1 if it fails")
    gate.add_argument("run", metavar="RUN", help="folder of a run")
    for command in (runs, gate):
        add_labels_file(command)
        command.add_argument("--json", action="store_true", help="print JSON")


def _add_new(commands: argparse._SubParsersAction[_Parser]) -> None:
    new = commands.add_parser("new", help="write a package with a task type or an extension of your own")
    add = new.add_argument
    add("name", metavar="NAME", help="of the task type or extension, such as legal-ner")
    add("--kind", help="token-classification, sequence-classification, extension, or child (--extends)")
    add("--extends", metavar="TASK", help="an installed task type, whose hooks are inherited")
    add("--package", help="name of the package (default: swift-NAME)")
    licenses = ("apache-2.0", "mit", "none")
    add("--license", choices=licenses, default=licenses[0], help=f"(default: {licenses[0]})")
    add("--folder", help="where to write it, a folder that is new or empty (default: the package's name)")


def _plugin_commands() -> str | None:
    from swift_core.registry import COMMAND_GROUP, find_claims

    claims = find_claims(COMMAND_GROUP)
    if not claims:
        return None
    return "Commands of installed packages: " + listed([f"{c.name} ({c.package})" for c in claims])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 failed, 2 a mistake, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Read by OpenMP when torch is loaded. Threads that wait spinning take the processor from those that work:
    # on a busy machine training was half as fast.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except SwiftError as error:
        print(f"swift: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("swift: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does.
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"swift: the output can't be written: {error.strerror}", file=sys.stderr)
        # What is left in the buffer can't be written either, and must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_FAILED


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else ""
    if command and not command.startswith("-") and command not in _HANDLERS:
        return _run_plugin_command(command, arguments[1:])
    parser = build_parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if hasattr(parsed, "options"):
        # argparse takes positionals only up to the first flag: `--format hf seed=3` leaves seed=3 behind.
        parsed.options += [text for text in unknown if "=" in text and not text.startswith("-")]
        unknown = [text for text in unknown if "=" not in text or text.startswith("-")]
    if unknown:
        raise UserError(*_unknown_arguments(unknown, takes_options=hasattr(parsed, "options")))
    if parsed.command is None:
        parser.error("expected a command")
    module, _, name = _HANDLERS[parsed.command].partition(":")
    handler: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(module), name)
    return handler(parsed)


def _run_plugin_command(command: str, arguments: list[str]) -> int:
    function = _plugin_command(command)
    try:
        return function(arguments)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SwiftError(f"command '{command}' failed: {type(error).__name__}: {error}") from error


def _plugin_command(command: str) -> Callable[[list[str]], int]:
    from swift_core.registry import COMMAND_GROUP, conflict_of, disabled_fault, find_claims, load_entry

    everything = find_claims(COMMAND_GROUP)
    claims = [claim for claim in everything if claim.is_called(command)]
    if len(claims) > 1:
        raise UserError(f"command '{command}': {conflict_of(claims[0], claims, 'swift ')}")
    if claims:
        who = f"package {claims[0].package} {claims[0].version}"
        function: Callable[[list[str]], int] = load_entry(claims[0], f"{who}, command '{command}'")
        if not callable(function):
            raise PluginError(f"{who}: {claims[0].entry_point.value} is no function")
        return function
    if disabled := disabled_fault(command, COMMAND_GROUP):
        raise UserError(f"command '{command}': {disabled}")
    known = [*_HANDLERS, *(claim.name for claim in everything)]
    raise UserError(
        f"there is no command '{command}'.{did_you_mean(command, known)} Commands: {listed(known)}"
    )


def _unknown_arguments(unknown: Sequence[str], *, takes_options: bool) -> Iterator[str]:
    """One sentence for each; a flag and the word after it are taken together, as they were meant."""
    left = list(unknown)
    while left:
        text = left.pop(0)
        if not takes_options or not text.startswith("--"):
            yield f"unknown argument {text}"
            continue
        name, sign, value = text.removeprefix("--").partition("=")
        if not sign and left and not left[0].startswith("--"):
            value = left.pop(0)
        option = f"{name.replace('-', '_')}={value or 'value'}"
        yield f"unknown argument --{name}; options of a run are written without dashes: {option}"
