"""Writes the generated parts of the docs, so that they can't drift from the code.

    python docs/generate.py --check    say which pages are stale (exit code 1)
    python docs/generate.py --write    bring them up to date

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end of generated part -->``.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import transformers

from swift_cls import noise_command
from swift_cls import objective as classification
from swift_cls.options import ClassificationOptions
from swift_cls.spec import SPEC as CLASSIFICATION
from swift_core.cli import build_parser
from swift_core.core_options import CORE_DEFAULTS, CoreOptions
from swift_core.hookspecs import RUN_HOOKS, TASK_HOOKS, RunHooks, TaskHooks
from swift_core.labels.definitions import LabelTable, Policy
from swift_core.option_faults import WITHOUT_EFFECT
from swift_core.options import Option, options_of
from swift_core.spec import TaskSpec
from swift_dpo import requirements as preferences
from swift_dpo.options import CpoOptions, DpoOptions, KtoOptions, OrpoOptions, SimpoOptions
from swift_dpo.specs import DPO, KTO
from swift_embedding import mine_command
from swift_embedding import objective as embedding
from swift_embedding.options import EmbeddingOptions
from swift_embedding.spec import SPEC as EMBEDDING
from swift_reranker import objective as reranking
from swift_reranker import scores_command
from swift_reranker.options import RerankerOptions
from swift_reranker.requirements import TARGETS
from swift_reranker.spec import SPEC as RERANKER

DOCS = Path(__file__).parent
_PART = re.compile(
    r"(?P<head><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<tail><!-- end of generated part -->)", re.DOTALL
)
COMMANDS = (
    "train",
    "check",
    "evaluate",
    "export",
    "compare",
    "tasks",
    "describe",
    "plugins",
    "new",
    "runs",
    "gate",
    "labels",
)
LABEL_ACTIONS = ("propose", "approve", "retire", "rename")


def option_table(options: Iterable[Option]) -> str:
    """A row for each option: name, type, default, help."""
    rows = ["| option | type | default | what it does |", "| --- | --- | --- | --- |"]
    for option in options:
        default = "" if option.default is None else f"`{json.dumps(option.default_json, ensure_ascii=False)}`"
        cells = (f"`{option.name}`", _escaped(option.type_text), default, _escaped(option.help))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def default_list(defaults: Iterable[tuple[str, object]]) -> str:
    """Defaults as a sentence's list."""
    return ", ".join(f"`{name}={value}`" for name, value in defaults) + "."


def task_defaults(spec: TaskSpec) -> str:
    """The defaults of a task type, and what is another with LoRA."""
    others = default_list(spec.lora_defaults.items()).removesuffix(".")
    told = default_list(spec.defaults.items())
    return f"{told.removesuffix('.')}; with `use_lora=True` {others}." if spec.lora_defaults else told


def families() -> str:
    """How families of models run without padding."""
    sys.path.insert(0, str(DOCS.parent))
    from benchmarks.families import family_table

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    return family_table()


def trainer_names() -> str:
    """The options of the training loop, by name."""
    known = options_of(transformers.TrainingArguments, "trainer")
    names = ", ".join(f"`{name}`" for name in known if name not in WITHOUT_EFFECT)
    return f"In transformers {transformers.__version__} these are: {names}."


def refused_table() -> str:
    """The library's options that would do nothing here."""
    rows = ["| option | why it is refused, or what to do instead |", "| --- | --- |"]
    return "\n".join(
        [*rows, *(f"| `{name}` | {_escaped(reason)} |" for name, reason in WITHOUT_EFFECT.items())]
    )


def layout_table(spec: TaskSpec) -> str:
    """The layouts of a task type."""
    rows = ["| layout | column | type | required | meaning |", "| --- | --- | --- | --- | --- |"]
    for layout in spec.layouts:
        for place, column in enumerate(layout.columns):
            needed = "yes" if column.required else "no"
            name = layout.name if place == 0 else ""
            rows.append(
                f"| {name} | `{column.name}` | {column.type} | {needed} | {_escaped(column.meaning)} |"
            )
    return "\n".join(rows)


def loss_table(suited: Mapping[str, str], uses: Mapping[str, frozenset[str]]) -> str:
    """What each loss learns from, and the options that it reads."""
    rows = ["| `loss` | learns from | options |", "| --- | --- | --- |"]
    for name, kinds in suited.items():
        options = ", ".join(f"`{option}`" for option in sorted(uses[name])) or "none"
        rows.append(f"| `{name}` | {kinds} | {options} |")
    return "\n".join(rows)


def embedding_losses() -> str:
    """The losses of the task type embedding."""
    kinds = {"answers": "queries and answers", "scored": "scored pairs", "labelled": "labelled texts"}
    suited = {name: ", ".join(kinds[kind] for kind in fitting) for name, fitting in embedding.SUITED.items()}
    return loss_table(suited, embedding.USES)


def classification_losses() -> str:
    """The losses of the task type sequence-classification."""
    suited = {name: f"`{problem}`" for name, problem in classification.SUITED.items()}
    return loss_table(suited, classification.USES)


def reranker_losses() -> str:
    """The losses of the task type reranker."""
    return loss_table({name: f"`{column}`" for name, column in TARGETS.items()}, reranking.USES)


def preference_options() -> str:
    """Options of the five task types of preferences: those that all have once, then those of each."""
    kinds = {
        "dpo": DpoOptions,
        "cpo": CpoOptions,
        "simpo": SimpoOptions,
        "orpo": OrpoOptions,
        "kto": KtoOptions,
    }
    known = {name: options_of(kind, "task") for name, kind in kinds.items()}
    users: dict[Option, list[str]] = {}
    for task, options in known.items():
        for option in options.values():
            users.setdefault(option, []).append(task)
    rows = ["| option | of | type | default | what it does |", "| --- | --- | --- | --- | --- |"]
    for option, tasks in sorted(users.items(), key=lambda entry: -len(entry[1])):
        head, *rest = option_table([option]).splitlines()[2].split(" | ")
        of = "all" if len(tasks) == len(kinds) else ", ".join(f"`{task}`" for task in tasks)
        rows.append(" | ".join([head, of, *rest]))
    return "\n".join(rows)


def preference_losses() -> str:
    """The losses of each of these task types, and the options that they read."""
    rows = ["| task type | `loss` | options |", "| --- | --- | --- |"]
    tables = {"dpo": preferences.USES, "cpo": preferences.CPO_USES, "kto": preferences.KTO_USES}
    for task, uses in tables.items():
        for name, options in uses.items():
            listing = ", ".join(f"`{option}`" for option in sorted(options)) or "none"
            rows.append(f"| `{task}` | `{name}` | {listing} |")
    return "\n".join(rows)


def field_table(fields_of: type) -> str:
    """A row for each field of a table of a labels file: name, default, meaning."""
    rows = ["| field | default | meaning |", "| --- | --- | --- |"]
    for option in options_of(fields_of, "table").values():
        default = f"`{json.dumps(option.default)}`" if option.default or option.default is False else ""
        rows.append(f"| `{option.name}` | {default} | {_escaped(option.help)} |")
    return "\n".join(rows)


def hook_head(name: str) -> str:
    """The heading of a hook, what it is called with and returns, and what its docstring says."""
    function = getattr(TaskHooks if name in TASK_HOOKS else RunHooks, name)
    signature = inspect.signature(function)
    arguments = [argument for argument in signature.parameters.values() if argument.name != "self"]
    rows = [f"| `{argument.name}` | `{_escaped(str(argument.annotation))}` |" for argument in arguments]
    text = re.sub(r":\w+:`[\w.]*?(\w+)`", r"`\1`", inspect.getdoc(function) or "").replace("``", "`")
    returns = f"Returns `{signature.return_annotation}`." if name in TASK_HOOKS else ""
    raises = re.sub(r"Raises:\n +([\w.]+): (.*)", r"Raises `\1`: \2", text)
    heading = f"### `{name}({', '.join(argument.name for argument in arguments)})`"
    table = "\n".join(["| argument | type |", "| --- | --- |", *rows])
    return "\n\n".join(part for part in (heading, raises, table, returns) if part) + "\n"


def command_help(*command: str) -> str:
    """What ``swift COMMAND --help`` prints here, without the commands that installed packages add."""
    parser = build_parser()
    parser.epilog = None
    printed = io.StringIO()
    # argparse fits lines to the terminal.
    width = mock.patch.dict(os.environ, COLUMNS="100")
    with width, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parser.parse_args([*command, "--help"])
    return f"```text\n{printed.getvalue().strip()}\n```"


def package_help(parser: argparse.ArgumentParser) -> str:
    """What the command of a package prints with ``--help``."""
    with mock.patch.dict(os.environ, COLUMNS="100"):
        return f"```text\n{parser.format_help().strip()}\n```"


PARTS: dict[str, Callable[[], str]] = {
    "core-options": lambda: option_table(options_of(CoreOptions, "core").values()),
    "core-defaults": lambda: default_list(CORE_DEFAULTS.items()),
    "embedding-options": lambda: option_table(options_of(EmbeddingOptions, "task").values()),
    "embedding-defaults": lambda: task_defaults(EMBEDDING),
    "embedding-layouts": lambda: layout_table(EMBEDDING),
    "embedding-losses": embedding_losses,
    "classification-options": lambda: option_table(options_of(ClassificationOptions, "task").values()),
    "classification-defaults": lambda: task_defaults(CLASSIFICATION),
    "classification-layouts": lambda: layout_table(CLASSIFICATION),
    "classification-losses": classification_losses,
    "reranker-options": lambda: option_table(options_of(RerankerOptions, "task").values()),
    "reranker-defaults": lambda: task_defaults(RERANKER),
    "reranker-layouts": lambda: layout_table(RERANKER),
    "reranker-losses": reranker_losses,
    "preference-options": preference_options,
    "preference-defaults": lambda: task_defaults(DPO),
    "preference-layouts": lambda: layout_table(DPO),
    "preference-single-layouts": lambda: layout_table(
        replace(KTO, layouts=tuple(layout for layout in KTO.layouts if layout not in DPO.layouts))
    ),
    "preference-losses": preference_losses,
    "label-fields": lambda: field_table(LabelTable),
    "policy-fields": lambda: field_table(Policy),
    **{
        f"hook-{name.replace('_', '-')}": lambda name=name: hook_head(name)  # type: ignore[misc]
        for name in (*TASK_HOOKS, *RUN_HOOKS)
    },
    "families": families,
    "trainer-options": trainer_names,
    "refused-options": refused_table,
    "help": command_help,
    "help-mine": lambda: package_help(mine_command.build_parser()),
    "help-label-noise": lambda: package_help(noise_command.build_parser()),
    "help-add-scores": lambda: package_help(scores_command.build_parser()),
    **{f"help-{name}": lambda name=name: command_help(name) for name in COMMANDS},  # type: ignore[misc]
    **{
        f"help-labels-{name}": lambda name=name: command_help("labels", name)  # type: ignore[misc]
        for name in LABEL_ACTIONS
    },
}


def fresh(text: str) -> str:
    """A page with its generated parts made anew."""
    return _PART.sub(lambda match: f"{match['head']}{PARTS[match['name']]()}\n{match['tail']}", text)


def main() -> int:
    """Check or write all pages."""
    parser = argparse.ArgumentParser(description="Generated parts of the docs.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="exit with 1 when a page is stale")
    what.add_argument("--write", action="store_true", help="rewrite stale pages")
    write = parser.parse_args().write
    stale = []
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := fresh(text)) != text:
            stale.append(path)
            if write:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{'rewritten' if write else 'stale'}: {path}")
    return 1 if stale and not write else 0


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
