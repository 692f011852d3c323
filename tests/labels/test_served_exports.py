"""What a server asks of an export before it loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from swift_core import UserError
from swift_core.labels.verdicts import refuse_failed_export
from swift_core.runs.record import Run

LABEL = """\
[policy]
mode = "warn"
[labels.speed-curve]
extends = "line-fitting"
"""
EASY = LABEL + 'gates = ["mse < 1e9"]\n'
HARD = LABEL + 'gates = ["mse <= 1e-9"]\n'


def test_a_server_refuses_the_export_of_a_failed_run_unless_told(cli, project: Path, tmp_path: Path):
    (project / "labels.toml").write_text(EASY)
    assert cli("train run.yaml export_formats=[coefficients]").code == 0
    (run,) = project.glob("output/*/*")
    export = run / "exports/coefficients"
    copied = shutil.copytree(export, tmp_path / "server/models/line")
    refuse_failed_export(export, despite=False)

    # Judged again, the run has failed: its export in its folder has too, and a copy can't know.
    (project / "labels.toml").write_text(HARD)
    assert cli(f"gate {run}").code == 1
    with pytest.raises(
        UserError, match=r"coefficients: .* gates of label 'speed-curve' \(mse <= 1e-9.*despite"
    ):
        refuse_failed_export(export, despite=False)
    refuse_failed_export(copied, despite=False)
    refuse_failed_export(export, despite=True)

    assert cli(f"export {run} --format coefficients --despite-gates").code == 0
    shutil.rmtree(copied)
    shutil.copytree(export, copied)
    # New figures take the verdict of the record away, and not that of the export.
    Run.open(run).update(metrics={"eval_mse": 1.0})
    with pytest.raises(UserError, match="failed the gates of label 'speed-curve'"):
        refuse_failed_export(export, despite=False)
    # Another run around the copy has nothing to say of it.
    other = {**json.loads((run / "run.json").read_text()), "run_id": "another", "gates": None}
    (copied.parents[1] / "run.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="failed the gates of label 'speed-curve'"):
        refuse_failed_export(copied, despite=False)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"label": "a"}'])
def test_an_export_that_tells_no_verdict_is_not_served(content: str | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: expected "):
        refuse_failed_export(tmp_path, despite=False)
    refuse_failed_export(tmp_path, despite=True)
