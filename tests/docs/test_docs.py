"""The docs are true: examples run, links hold, generated parts are fresh, nothing is left undocumented."""

from __future__ import annotations

import inspect
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift_core import hookimpl
from swift_core.cli import build_parser
from swift_core.core_options import CoreOptions
from swift_core.hookspecs import RUN_HOOKS, TASK_HOOKS, RunHooks, TaskHooks
from swift_core.options import options_of
from swift_core.runs.beginning import new_record, new_session
from swift_core.runs.stored import STATES
from swift_core.runtime import contract_faults

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "plugins" / "swift-embedding" / "README.md",
    ROOT / "plugins" / "swift-cls" / "README.md",
    ROOT / "plugins" / "swift-reranker" / "README.md",
    ROOT / "plugins" / "swift-dpo" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_examples_run(path: Path, run_page: Callable[[Path], Any]) -> None:
    run_page(path)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_no_block_is_overlooked(path: Path, page_blocks: Callable[[Path], list[Any]]) -> None:
    fences = re.findall(r"^ *```", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    blocks = page_blocks(path)
    assert len(fences) == 2 * len(blocks)
    assert {block.language for block in blocks} <= {"python", "console", "yaml", "jsonl", "toml", "text"}


def test_the_comparison_of_shown_and_printed_lines(lines_missing: Callable[..., list[str]]) -> None:
    printed = "step 1/5  loss 0.31\nexported to /tmp/x/output/task\nlast"
    assert not lines_missing(["step 2/9 loss 7e-3", "...", "exported to /home/you/output/task"], printed)
    assert not lines_missing(["exported ..."], printed)
    assert lines_missing(["last", "step 1/5  loss 0.31"], printed) == ["step 1/5  loss 0.31"]
    assert lines_missing(["step 1/5  accuracy 0.31"], printed)


def test_generated_parts_are_fresh(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "docs" / "generate.py"), run_name="__main__")
    assert stop.value.code == 0, f"{capsys.readouterr().out}run: python docs/generate.py --write"


def test_a_stale_part_is_found() -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    text = text_of("options.md")
    assert generate["fresh"](text) == text
    stale = text.replace("Rank r of the LoRA matrices.", "Something else.")
    assert stale != text
    assert generate["fresh"](stale) == text


def anchors_of(path: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_hold(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{page_id(path)}: there is no {target}"
        assert not anchor or anchor in anchors_of(file), f"{page_id(path)}: {name} has no anchor #{anchor}"


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r"\]\(docs/([a-z-]+\.md)\)", readme))


@pytest.mark.parametrize("hook", [*TASK_HOOKS, *RUN_HOOKS])
def test_every_hook_is_documented_with_its_arguments(hook: str) -> None:
    owner = TaskHooks if hook in TASK_HOOKS else RunHooks
    names = [name for name in inspect.signature(getattr(owner, hook)).parameters if name != "self"]
    assert f"### `{hook}({', '.join(names)})`" in text_of("hooks.md")


def test_the_hooks_of_the_how_tos_keep_the_contract(run_page: Callable[[Path], Any]) -> None:
    page = run_page(ROOT / "docs" / "hooks.md")
    assert set(TASK_HOOKS) <= page.names.keys()
    assert contract_faults(SimpleNamespace(**page.names)) == []
    for extension in ("Highest", "HalfLoss"):
        assert contract_faults(page.names[extension]()) == []


def test_every_command_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["--help"])
    commands = re.findall(r"^    (\w+) +\w", capsys.readouterr().out, flags=re.MULTILINE)
    assert "train" in commands
    headings = re.findall(r"^## swift (\w+)$", text_of("commands.md"), flags=re.MULTILINE)
    assert headings == commands


def test_every_option_of_the_core_is_documented() -> None:
    text = text_of("options.md")
    assert [name for name in options_of(CoreOptions, "core") if f"| `{name}` |" not in text] == []


def test_every_field_of_a_record_is_documented() -> None:
    text = text_of("runs.md")
    session = new_session([])
    identity = ("run_id", "label", "task_type", "run_name", "options", "resolved_options")
    fields = [*identity, *new_record(session), *session, *STATES]
    assert [name for name in fields if f"`{name}`" not in text] == []


def breaches() -> list[tuple[str, str]]:
    """Rows of the table of breaches: the code, and what is told."""
    section = text_of("hooks.md").partition("## The rules, and what a breach")[2]
    return re.findall(r"^\| `((?:@hookimpl )?def [^`]+)` \| (.+) \|$", section, flags=re.MULTILINE)


@pytest.mark.parametrize(("code", "told"), breaches())
def test_breaches_of_the_contract_are_told_as_documented(code: str, told: str) -> None:
    names: dict[str, Any] = {"hookimpl": hookimpl}
    exec(code.replace("@hookimpl ", "@hookimpl\n"), names)
    del names["__builtins__"], names["hookimpl"]
    faults = contract_faults(SimpleNamespace(**names))
    assert any(fault.startswith(told) for fault in faults), faults


def test_there_are_breaches_in_the_docs() -> None:
    assert len(breaches()) >= 5
