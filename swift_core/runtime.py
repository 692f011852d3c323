"""One plugin manager per run: exactly one owner of the five task hooks, any number of observers.

What pluggy accepts in silence and what would go wrong later is refused here, before a model is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pluggy

from swift_core.errors import PluginError, did_you_mean, first_line, listed
from swift_core.hookspecs import RUN_HOOKS, TASK_HOOKS, Collator, Evaluation, LossOutput, RunHooks, TaskHooks
from swift_core.registry import Claim, find_task, load_object, load_spec

if TYPE_CHECKING:
    from torch import nn

    from swift_core.arguments import TrainingArguments
    from swift_core.data.dataset import TaskData
    from swift_core.runs.record import Run

_MARK = "swift_impl"


class Runtime:
    """The hooks of one run."""

    def __init__(self, claim: Claim, extensions: Sequence[object] = ()) -> None:
        """Load the implementation that ``claim`` stands for, with that of its parents where it has none.

        Args:
            claim: the task type.
            extensions: observers and wrappers; the last stands around the others. As observers they may
                fail: they are dropped, and the run goes on.

        Raises:
            PluginError: a package or an extension does not keep the contract; all its faults at once.
        """
        self._manager = pluggy.PluginManager("swift")
        self._manager.add_hookspecs(TaskHooks)
        self._manager.add_hookspecs(RunHooks)
        self._who = f"package {claim.package} {claim.version}"
        owner = _with_parents(claim)
        faults = [
            f"{self._who}: {name}: not implemented; decorate a function of that name with @hookimpl"
            for name in TASK_HOOKS
            if not hasattr(owner, name)
        ]
        if faults:
            raise PluginError(*faults)
        self._register(owner, self._who)
        self._droppable: list[object] = []
        self._dropped: list[object] = []
        for extension in extensions:
            self.add(extension)
            self._droppable.append(extension)

    def add(self, extension: object) -> None:
        """Register an observer or a wrapper of a task hook.

        Raises:
            PluginError: it is none.
        """
        name = _name_of(extension)
        faults = contract_faults(extension)
        for hook, options in _marked(extension).items():
            wraps = options["wrapper"] or options["hookwrapper"]
            if hook in TASK_HOOKS and not wraps:
                faults.append(
                    f"{hook}: {self._who} owns this hook; an extension may only wrap it "
                    "(@hookimpl(wrapper=True))"
                )
            elif hook in RUN_HOOKS and wraps:
                faults.append(f"{hook}: this hook is watched, not wrapped; write @hookimpl")
        if faults:
            raise PluginError(*(f"extension {name}: {fault}" for fault in faults))
        self._register(extension, f"extension {name}")

    def remove(self, extension: object) -> None:
        """Take back what :meth:`add` registered."""
        self._manager.unregister(extension)

    def _register(self, plugin: object, who: str) -> None:
        try:
            self._manager.register(plugin)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"{who}: {' '.join(str(error).split())}") from error

    def make_model(self, *, args: TrainingArguments, collator: Collator) -> nn.Module:
        """Call the hook; see :class:`swift_core.hookspecs.TaskHooks`."""
        from torch import nn

        model = self._manager.hook.make_model(args=args, collator=collator)
        return self._checked("make_model", model, nn.Module)  # type: ignore[no-any-return]

    def make_collator(self, *, args: TrainingArguments) -> Collator:
        """Call the hook; see :class:`swift_core.hookspecs.TaskHooks`."""
        collator = self._manager.hook.make_collator(args=args)
        if not callable(collator) or not callable(getattr(collator, "encode", None)):
            raise PluginError(
                f"{self._who}: make_collator returned {_kind(collator)}, expected an object with "
                "encode(record) and __call__(features)"
            )
        return collator  # type: ignore[no-any-return]

    def compute_loss(
        self, *, model: nn.Module, batch: Mapping[str, Any], collator: Collator, args: TrainingArguments
    ) -> LossOutput:
        """Call the hook; see :class:`swift_core.hookspecs.TaskHooks`."""
        output = self._manager.hook.compute_loss(model=model, batch=batch, collator=collator, args=args)
        return self._checked("compute_loss", output, LossOutput)  # type: ignore[no-any-return]

    def evaluate(
        self, *, model: nn.Module, collator: Collator, data: TaskData | None, args: TrainingArguments
    ) -> Evaluation:
        """Call the hook; see :class:`swift_core.hookspecs.TaskHooks`.

        It returns every declared metric, or where these are in several groups those of at least one.
        """
        result = self._manager.hook.evaluate(model=model, collator=collator, data=data, args=args)
        evaluation: Evaluation = self._checked("evaluate", result, Evaluation)
        missing = [
            [metric.name for metric in group if metric.name not in evaluation.metrics]
            for group in args.spec.metric_groups.values()
        ]
        partly = [
            names
            for names, group in zip(missing, args.spec.metric_groups.values(), strict=True)
            if 0 < len(names) < len(group)
        ]
        if missing and (partly or all(missing)):
            missing_names = listed((partly or missing)[0])
            raise PluginError(
                f"{self._who}: evaluate did not return the declared metrics {missing_names}; "
                f"it returned {', '.join(evaluation.metrics) or 'none'}"
            )
        return evaluation

    def export(
        self,
        *,
        model: nn.Module,
        collator: Collator,
        format: str,
        folder: Path,
        data: TaskData | None,
        args: TrainingArguments,
        run: Run,
    ) -> Mapping[str, Any]:
        """Call the hook; see :class:`swift_core.hookspecs.TaskHooks`."""
        details = self._manager.hook.export(
            model=model, collator=collator, format=format, folder=folder, data=data, args=args, run=run
        )
        return self._checked("export", details, Mapping)  # type: ignore[no-any-return]

    def run_started(self, run: Run) -> None:
        """Tell the observers."""
        self._tell("run_started", run=run)

    def metrics_logged(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the observers."""
        self._tell("metrics_logged", run=run, step=step, metrics=metrics)

    def run_ended(self, run: Run) -> None:
        """Tell the observers."""
        self._tell("run_ended", run=run)

    def _tell(self, hook: str, **said: Any) -> None:
        """Tell every observer. One of an extension that fails is dropped with a line: the run goes on."""
        for implementation in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            extension = implementation.plugin
            is_extension = any(extension is droppable for droppable in self._droppable)
            if any(extension is dropped for dropped in self._dropped):
                continue
            try:
                implementation.function(*(said[name] for name in implementation.argnames))
            except Exception as error:  # whatever an observer raises
                if not is_extension:
                    raise
                self._dropped.append(extension)
                print(
                    f"extension {_name_of(extension)} watches no more: {hook} failed with "
                    f"{type(error).__name__}: {first_line(error)}"
                )

    def _checked(self, hook: str, value: Any, expected: type) -> Any:
        if isinstance(value, expected):
            return value
        raise PluginError(f"{self._who}: {hook} returned {_kind(value)}, expected a {expected.__name__}")


def _with_parents(claim: Claim) -> SimpleNamespace:
    """The hooks of a task type, each from the nearest of it and its ancestors that implements it."""
    hooks: dict[str, Any] = {}
    seen: list[str] = []
    name: str | None = claim.name
    while name is not None:
        if name in seen:
            raise PluginError(f"task type '{claim.name}': its parents go round in a circle: {[*seen, name]}")
        seen.append(name)
        spec = load_spec(claim)
        implementation = load_object(spec.implementation, claim)
        faults = contract_faults(implementation) + [
            f"{hook}: a task type implements its hooks; wrapping (wrapper=True) is for extensions"
            for hook, options in _marked(implementation).items()
            if options["wrapper"] or options["hookwrapper"]
        ]
        if faults:
            who = f"package {claim.package} {claim.version}, {spec.implementation}"
            raise PluginError(*(f"{who}: {fault}" for fault in faults))
        for hook in _marked(implementation):
            hooks.setdefault(hook, getattr(implementation, hook))
        name = spec.parent
        claim = find_task(name) if name else claim
    return SimpleNamespace(**hooks)


def contract_faults(implementation: object) -> list[str]:
    """What about ``implementation`` pluggy would take in silence, or refuse less clearly."""
    known = (*TASK_HOOKS, *RUN_HOOKS)
    faults = []
    for name in known:
        function = getattr(implementation, name, None)
        if inspect.isroutine(function) and not hasattr(function, _MARK):
            faults.append(
                f"{name}: there is a function of this name without @hookimpl, it would never be called"
            )
    for name in _marked(implementation):
        if name not in known:
            faults.append(
                f"{name}: there is no such hook.{did_you_mean(name, known)} Hooks: {', '.join(known)}"
            )
            continue
        faults += [f"{name}: {fault}" for fault in _argument_faults(implementation, name)]
    return faults


def _argument_faults(implementation: object, name: str) -> Iterable[str]:
    spec = TaskHooks if name in TASK_HOOKS else RunHooks
    allowed = [p for p in inspect.signature(getattr(spec, name)).parameters if p != "self"]
    for parameter in inspect.signature(getattr(implementation, name)).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            yield f"takes {parameter}; name the arguments you use out of {', '.join(allowed)}"
        elif parameter.default is not parameter.empty:
            yield f"argument '{parameter.name}' has a default, which pluggy never passes; remove the default"
        elif parameter.name not in allowed:
            hint = did_you_mean(parameter.name, allowed)
            yield f"there is no argument '{parameter.name}'.{hint} Arguments: {', '.join(allowed)}"


def _marked(implementation: object) -> dict[str, Any]:
    """Names of the functions decorated with @hookimpl, with pluggy's options for each."""
    marked = {}
    for name in dir(implementation):
        function = getattr(implementation, name, None)
        if inspect.isroutine(function) and hasattr(function, _MARK):
            marked[name] = getattr(function, _MARK)
    return marked


def _name_of(extension: object) -> str:
    return str(getattr(extension, "__name__", type(extension).__name__))


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
