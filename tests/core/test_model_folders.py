"""Which model a name stands for."""

from __future__ import annotations

import json

import pytest

from swift_core import TrainingArguments
from swift_core.model_folders import base_args_of


@pytest.mark.parametrize(("base", "revision"), [("owner/name", "abc123"), ("local", None)])
def test_an_adapter_is_put_on_the_revision_of_its_base_that_it_was_trained_on(
    tmp_path, monkeypatch, base, revision
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    config = {"base_model_name_or_path": base, "revision": "abc123"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    args = base_args_of(tmp_path, TrainingArguments("embedding", model_name_or_path=str(tmp_path)))
    assert (args.core.model_name_or_path, args.core.model_revision) == (base, revision)
