"""Packages that are broken: each is told by its name, and harms nobody else."""

from __future__ import annotations

import pytest

from swift_core import SwiftTrainer, TrainingArguments, UserError

from .mistakes.making import CHECK

SPEC = """
from swift_core import Column, TaskSpec
SPEC = TaskSpec(
    name="toy", summary="a toy", columns=(Column(name="query", type="text", meaning="m"),),
    implementation="acme_toy.hooks", {more}
)
"""
HOOKS = """
from swift_core import hookimpl

@hookimpl
def make_model(args): ...
@hookimpl
def make_collator(args): ...
@hookimpl
def compute_loss(model, batch): ...
@hookimpl
def evaluate(model, data): ...
@hookimpl
def export(folder): ...
"""
OPTIONS_FILE = (
    "from dataclasses import dataclass\nfrom swift_core import option\n\n@dataclass\nclass Toy:\n    {line}\n"
)
TOY = f"{CHECK} task_type=toy"


def toy(
    *, spec: str | None = None, hooks: str = HOOKS, options: str | None = None, more: str = ""
) -> dict[str, str]:
    """The files of a package with the task type ``toy``."""
    if options is not None:
        more += 'options="acme_toy.options:Toy",'
    files = {"__init__.py": "", "spec.py": spec or SPEC.format(more=more), "hooks.py": hooks}
    if options:
        files["options.py"] = options
    return {f"acme_toy/{name}": text for name, text in files.items()}


PACKAGES = {
    "broken import": (TOY, "ModuleNotFoundError: No module named 'nowhere'", toy(spec="import nowhere")),
    "ends the process": (
        TOY,
        "acme_toy.spec:SPEC can't be loaded (SystemExit",
        toy(spec="raise SystemExit(3)"),
    ),
    "no spec": (TOY, "acme_toy.spec:SPEC is a dict, expected a swift_core.TaskSpec", toy(spec="SPEC = {}")),
    "hook is missing": (
        TOY,
        "export: not implemented",
        toy(hooks=HOOKS[: HOOKS.index("@hookimpl\ndef export")]),
    ),
    "hook is not marked": (
        TOY,
        "without @hookimpl",
        toy(hooks=HOOKS.replace("@hookimpl\ndef export", "def export")),
    ),
    "hook has a default": (
        TOY,
        "argument 'folder' has a default",
        toy(hooks=HOOKS.replace("folder", "folder=None")),
    ),
    "hooks can't be imported": (TOY, "acme_toy.hooks can't be loaded", toy(hooks="import nowhere")),
    "hook returns nothing": (TOY, "make_collator returned None", toy()),
    "options are missing": (TOY, "acme_toy.options:Toy can't be loaded", toy(options="")),
    "options are none": ("describe toy", "acme_toy.options:Toy is not a dataclass", toy(options="Toy = 3")),
    "options of unknown types": (
        "describe toy",
        "the types of acme_toy.options:Toy can't be resolved (NameError",
        toy(
            options="from __future__ import annotations\n"
            + OPTIONS_FILE.format(line="x: Nope = option(1, help='x')")
        ),
    ),
    "option of the core": (
        TOY,
        "its options seed have the names of options of the core",
        toy(options=OPTIONS_FILE.format(line="seed: int = option(1, help='x')")),
    ),
    "default of no option": (
        TOY,
        "defaults of its spec: there is no option 'sed'",
        toy(more='defaults={"sed": 1},'),
    ),
    "default of a wrong type": (
        TOY,
        "defaults of its spec: seed: expected an integer",
        toy(more='defaults={"seed": "1"},'),
    ),
    "parent is missing": (TOY, "no installed package provides 'nobody'", toy(more='parent="nobody",')),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_broken_package_is_named_and_harms_nobody_else(name: str, project, install, cli, asked):
    command, says, files = PACKAGES[name]
    install("acme-toy", files=files, entry_points={"swift.tasks": {"toy": "acme_toy.spec:SPEC"}})
    done = cli(command)
    assert (done.code, "Traceback" in done.err) == (2, False), done.err
    assert says in done.err
    assert "acme" in done.err or "nobody" in done.err
    assert (cli(CHECK).code, cli("tasks").code, cli("plugins").code) == (0, 0, 0)
    assert not asked


def test_two_packages_of_one_name_are_told_apart(project, install, cli):
    for package in ("acme-toy", "other-toy"):
        install(package, files=toy(), entry_points={"swift.tasks": {"toy": "acme_toy.spec:SPEC"}})
    done = cli(TOY)
    assert done.code == 2
    assert "write task_type=acme-toy:toy or task_type=other-toy:toy, or uninstall one" in done.err
    assert "several packages provide 'toy'" in cli("plugins").out


@pytest.mark.parametrize(
    ("command", "says"),
    [("gone", "acme_cmd.nothing:main can't be loaded"), ("three", "acme_cmd:three is no function")],
)
def test_a_broken_command_of_a_package_is_a_sentence(command: str, says: str, project, install, cli):
    entries = {"gone": "acme_cmd.nothing:main", "three": "acme_cmd:three"}
    install("acme-cmd", files={"acme_cmd.py": "three = 3\n"}, entry_points={"swift.commands": entries})
    done = cli(command)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert says in done.err


def test_a_second_owner_of_a_hook_is_refused(project):
    from swift_core import hookimpl

    class Second:
        @hookimpl
        def make_model(self, args):
            return None

    args = TrainingArguments.from_file("run.yaml")
    with pytest.raises(UserError, match=r"make_model: package swift-embedding .* owns this hook"):
        SwiftTrainer(args, extensions=[Second()])
