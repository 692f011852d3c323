"""Checks of the collator, and of batches with and without padding."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from swift_core.batching import CountingCollator
from swift_core.flat.data import flat_batches_in
from swift_core.flat.forward import FlatState, Rung, set_state, state_of, unwrapped
from swift_core.modes import evaluating
from swift_core.testing.comparing import close, shown
from swift_core.testing.contents import contents_of, different_contents
from swift_core.testing.gradients import ROWS, spread_rows
from swift_core.testing.outcomes import ConformanceError, NotApplicable
from swift_core.testing.subject import Subject, encoded, with_rows

_TOLERANCE = 1e-4


def collator_works_in_workers(subject: Subject) -> None:
    """The collator can be pickled, and makes the same batches in two workers of a DataLoader."""
    prepared = subject.prepared(subject.arguments())
    features = encoded(prepared.train)
    chosen = [features[n] for n in spread_rows(prepared, ROWS)]
    collate = CountingCollator(prepared.collator)
    expected = contents_of(collate(chosen))
    # After a first batch, so that what it has counted travels along.
    copy = _pickled(collate)
    _compare(expected, contents_of(copy(chosen)), "a pickled copy")
    with warnings.catch_warnings():
        # Python warns of forks in a process with threads, which DataLoader takes care of.
        warnings.simplefilter("ignore", DeprecationWarning)
        loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            chosen * 2,  # type: ignore[arg-type]
            batch_size=len(chosen),
            num_workers=2,
            collate_fn=collate,
        )
        for batch in loader:
            _compare(expected, contents_of(batch), "a worker")


def _pickled(collate: CountingCollator) -> Any:
    try:
        return pickle.loads(pickle.dumps(collate))
    except Exception as error:  # pickle raises of all kinds
        raise ConformanceError(
            expected="a collator that can be pickled for DataLoader workers",
            found=f"{type(error).__name__}: {error}",
            remedy="put its class at the top of a module, and keep no functions or open files in it",
        ) from error


def _compare(expected: Mapping[str, Any], found: Mapping[str, Any], who: str) -> None:
    wrong = different_contents(expected, found)
    if wrong:
        raise ConformanceError(
            expected="the same batch from the same rows",
            found=f"another one from {who}: {shown(wrong)}",
            remedy="let `__call__` depend on nothing but the rows and what the collator was built with",
        )


def padded_and_flat_agree(subject: Subject) -> None:
    """The loss of a batch is the same on a flat row of tokens and on a padded batch."""
    args = subject.arguments()
    prepared = subject.prepared(args)
    trainer = subject.trainer(args, prepared=with_rows(prepared, spread_rows(prepared, ROWS)))
    features = encoded(trainer.train_data)
    batch = trainer.collator([features[n] for n in range(ROWS)])
    if not list(flat_batches_in(batch)):
        raise NotApplicable("its batches are no flat rows of tokens")
    trainer._settle_batches()
    state = state_of(trainer.network)
    if state.rung is not Rung.FLAT:
        raise NotApplicable(f"this model is not run on flat rows: {state.told}")
    losses = []
    for rung in (Rung.FLAT, Rung.PADDING):
        _run_as(trainer.network, state, rung)
        with evaluating(trainer.network):
            output = trainer.runtime.compute_loss(
                model=trainer.network, batch=batch, collator=trainer.collator, args=trainer.options
            )
        losses.append(float(torch.as_tensor(output.loss).sum()))
    if not close(losses[0], losses[1], _TOLERANCE):
        raise ConformanceError(
            expected="the same loss on a flat row and on a padded batch",
            found=f"{losses[0]:.6g} flat and {losses[1]:.6g} padded",
            remedy="run the model through `forward_flat` or `segment_vectors`, and let the core decide how",
        )


def _run_as(model: torch.nn.Module, state: FlatState, rung: Rung) -> None:
    set_state(model, replace(state, rung=rung))
    if rung is Rung.PADDING and state.original is not None:
        unwrapped(model).set_attn_implementation(state.original)
