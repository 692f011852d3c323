"""metrics.jsonl and the tables of evaluations, read by a strict JSON reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from swift_core.runs.record import Run

MakeRun = Callable[..., Run]


def strict(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_lines_are_appended(make_run: MakeRun) -> None:
    run = make_run()
    run.append_metrics(1, {"loss": 0.5, "grad_norm": float("nan")})
    run.append_metrics(2, {"loss": float("inf"), "step": 99.0, "训练": 1.0})
    first, second = strict(run.metrics_file)
    assert list(first) == ["step", "time", "loss", "grad_norm"]
    assert datetime.fromisoformat(first.pop("time")) <= datetime.fromisoformat(second.pop("time"))
    assert first == {"step": 1, "loss": 0.5, "grad_norm": None}
    assert second == {"step": 2, "loss": None, "训练": 1.0}


def test_later_steps_and_broken_lines_are_dropped(make_run: MakeRun) -> None:
    run = make_run()
    for step in (1, 2, 2, 3, 4):
        run.append_metrics(step, {"loss": 1.0 / step})
    whole = run.metrics_file.read_bytes()
    half_a_character = '{"step": 2, "训'.encode()[:-1]
    run.metrics_file.write_bytes(whole + b"null\n" + b'{"loss": 1}\n' + half_a_character)
    run.drop_metrics_after(2)
    assert [line["step"] for line in strict(run.metrics_file)] == [1, 2, 2]
    assert whole.startswith(run.metrics_file.read_bytes())
    run.append_metrics(3, {"loss": 0.0})
    assert [line["step"] for line in strict(run.metrics_file)] == [1, 2, 2, 3]


def test_last_line_that_lacks_only_its_end_is_kept(make_run: MakeRun) -> None:
    run = make_run()
    run.append_metrics(1, {"loss": 1.0})
    run.metrics_file.write_bytes(run.metrics_file.read_bytes().rstrip(b"\n"))
    run.drop_metrics_after(1)
    assert [line["step"] for line in strict(run.metrics_file)] == [1]


def test_nothing_logged_yet(make_run: MakeRun) -> None:
    run = make_run()
    run.drop_metrics_after(0)
    assert not run.metrics_file.exists()


def test_table(make_run: MakeRun) -> None:
    run = make_run()
    run.write_table(10, "errors", [{"text": "old"}])
    rows: list[dict[str, Any]] = [{"text": "商品", "score": float("nan")}, {"text": "b"}]
    path = run.write_table(10, "errors", iter(rows))
    assert path == run.folder / "evaluations" / "step-10" / "errors.jsonl"
    assert strict(path) == [{"text": "商品", "score": None}, {"text": "b"}]
