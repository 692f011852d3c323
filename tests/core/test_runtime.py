"""The contract: every trap of pluggy is refused with a sentence before a model is built."""

from __future__ import annotations

import textwrap
from types import SimpleNamespace

import pytest
from torch import nn

from swift_core import PluginError, hookimpl
from swift_core.registry import find_task
from swift_core.runtime import Runtime

SPEC = """
from swift_core import TaskSpec
SPEC = TaskSpec(name={name!r}, summary="s", columns=(), implementation="{module}.hooks", parent={parent!r})
"""
HOOKS = {
    "make_model": "def make_model(args):\n    from torch import nn\n    return nn.Linear(1, 1)",
    "make_collator": "def make_collator(args):\n    return None",
    "compute_loss": "def compute_loss(model, batch):\n    return None",
    "evaluate": "def evaluate(model, data):\n    return None",
    "export": "def export(folder):\n    return None",
}


@pytest.fixture
def runtime_of(install):
    """Install a package whose hooks.py holds the five hooks with some replaced, and load it."""

    def build(
        name: str = "toy", *, parent: str | None = None, only: bool = False, extensions=(), **changes: str
    ):
        module = f"acme_{name}"
        hooks = dict(changes) if only else {**HOOKS, **changes}
        body = "\n\n".join(
            text if text.startswith("#raw") else f"@hookimpl\n{text}" for text in hooks.values()
        )
        install(
            f"acme-{name}",
            files={
                f"{module}/__init__.py": "",
                f"{module}/spec.py": SPEC.format(name=name, module=module, parent=parent),
                f"{module}/hooks.py": "from swift_core import hookimpl\n\n" + textwrap.dedent(body),
            },
            entry_points={"swift.tasks": {name: f"{module}.spec:SPEC"}},
        )
        return Runtime(find_task(name), extensions)

    return build


def test_hooks_name_only_the_arguments_they_use(runtime_of):
    assert isinstance(runtime_of().make_model(args=None, collator=None), nn.Linear)


@pytest.mark.parametrize(
    ("hook", "text", "message"),
    [
        ("make_model", "def make_model(args, seed=1):\n    ...", "argument 'seed' has a default"),
        ("make_model", "#raw\ndef make_model(args):\n    ...", "without @hookimpl, it would never be called"),
        ("make_model", "def make_modle(args):\n    ...", "no such hook. Did you mean 'make_model'"),
        ("make_model", "def make_model(arg):\n    ...", "no argument 'arg'. Did you mean 'args'"),
        ("compute_loss", "def compute_loss(model, **rest):\n    ...", r"takes \*\*rest; name the arguments"),
        ("export", "#raw\n", "export: not implemented"),
    ],
)
def test_what_pluggy_takes_in_silence_is_refused(runtime_of, hook, text, message):
    with pytest.raises(PluginError, match=message) as caught:
        runtime_of(**{hook: text})
    assert "package acme-toy 1.0" in str(caught.value)


def test_all_faults_are_told_at_once(runtime_of):
    with pytest.raises(PluginError) as caught:
        runtime_of(make_model="def make_model(args, seed=1):\n    ...", export="def exprot(folder):\n    ...")
    assert len(caught.value.faults) == 2


def test_none_from_a_hook_is_an_error_and_not_somebody_elses_turn(runtime_of):
    runtime = runtime_of()
    with pytest.raises(PluginError, match="compute_loss returned None, expected a LossOutput"):
        runtime.compute_loss(model=None, batch={}, collator=None, args=None)
    with pytest.raises(PluginError, match="make_collator returned None"):
        runtime.make_collator(args=None)


def test_a_second_owner_of_a_task_hook_is_refused(runtime_of):
    second = SimpleNamespace(__name__="second", make_model=hookimpl(lambda args: nn.Identity()))
    with pytest.raises(PluginError, match="an extension may only wrap it"):
        runtime_of(extensions=[second])


def test_an_extension_may_wrap_a_hook_and_watch_the_run(runtime_of):
    seen = []

    class Extension:
        @hookimpl(wrapper=True)
        def make_model(self, args):
            return nn.Sequential((yield))

        @hookimpl
        def metrics_logged(self, step, metrics):
            seen.append((step, metrics))

    runtime = runtime_of(extensions=[Extension()])
    assert isinstance(runtime.make_model(args=None, collator=None), nn.Sequential)
    runtime.metrics_logged(None, 3, {"loss": 1.0})
    assert seen == [(3, {"loss": 1.0})]


def test_a_child_takes_from_its_parent_what_it_does_not_implement(runtime_of):
    runtime_of("parent")
    child = runtime_of(
        "child",
        parent="parent",
        only=True,
        make_model="def make_model(args):\n    from torch import nn\n    return nn.Identity()",
        unused="def run_started(run):\n    ...",
    )
    assert isinstance(child.make_model(args=None, collator=None), nn.Identity)
    with pytest.raises(PluginError, match="evaluate returned None"):
        child.evaluate(model=None, collator=None, data=None, args=None)


def test_a_circle_of_parents_is_refused(runtime_of):
    with pytest.raises(PluginError, match=r"no installed package|circle"):
        runtime_of("ouroboros", parent="ouroboros")


def test_two_runs_do_not_see_each_others_extensions(runtime_of):
    seen = []

    class Extension:
        @hookimpl
        def run_ended(self, run):
            seen.append(run)

    watched = runtime_of(extensions=[Extension()])
    Runtime(find_task("toy")).run_ended("other")
    watched.run_ended("mine")
    assert seen == ["mine"]


def test_a_task_that_wraps_instead_of_implementing_is_refused(runtime_of):
    with pytest.raises(PluginError, match="compute_loss: a task type implements its hooks"):
        runtime_of(compute_loss="#raw\n@hookimpl(wrapper=True)\ndef compute_loss():\n    return (yield)")
