"""What the commands of task packages share: how they read their arguments and tell mistakes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from swift_core.errors import UserError, did_you_mean


class CommandParser(argparse.ArgumentParser):
    """A parser whose faults are a :class:`UserError`; flags are not abbreviated."""

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Tell a fault of the command line.

        Raises:
            UserError: always.
        """
        raise UserError(message.replace(", option=value", "") + f"; see {self.prog} --help")

    def add_run_file(self) -> None:
        """A run file, and options of the run that win over it."""
        self.add_argument("run_file", metavar="RUN.yaml")
        self.add_argument(
            "options", nargs="*", metavar="option=value", help="options that win over the run file"
        )


def parse_command(parser: CommandParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command with a run file; its options may stand anywhere.

    Raises:
        UserError: all that is wrong, with the flag or option that may have been meant.
    """
    flags = [text for action in parser._actions for text in action.option_strings if text.startswith("--")]
    parsed, unknown = parser.parse_known_args(list(arguments))
    # argparse takes positionals only up to the first flag.
    parsed.options += [text for text in unknown if "=" in text and not text.startswith("-")]
    left = [text for text in unknown if "=" not in text or text.startswith("-")]
    faults = [
        _unknown(text, flags)
        for before, text in zip(["", *left], left, strict=False)
        # A word behind an unknown flag was meant as its value.
        if text.startswith("-") or not before.startswith("--") or "=" in before
    ]
    for text in parsed.options:
        flag = "--" + text.partition("=")[0].replace("_", "-")
        if flag in flags:
            faults.append(f"{text}: belongs to this command: write {flag} {text.partition('=')[2]}")
    if faults:
        raise UserError(*faults)
    return parsed


def _unknown(text: str, flags: Sequence[str]) -> str:
    name = text.partition("=")[0]
    hint = did_you_mean(name, flags) if name.startswith("--") else ""
    if hint or not name.startswith("--"):
        return f"unknown argument {text}{hint and f'.{hint}'}"
    option = name.removeprefix("--").replace("-", "_")
    return f"unknown argument {text}; options of the run are written without dashes: {option}=value"
