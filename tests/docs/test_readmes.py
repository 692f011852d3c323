"""README.zh-CN.md says what README.md says: code, links, figures and sections can't drift apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"

Blocks = Callable[[Path], list[Any]]


def shape(blocks: list[Any]) -> list[tuple[str, str | None, str, str]]:
    """Blocks as they must be in both; of plain text, which may be translated, what stands first in a line."""
    return [
        (
            block.language,
            block.title,
            block.note,
            first_words(block.text) if block.language == "text" else block.text,
        )
        for block in blocks
    ]


def first_words(text: str) -> str:
    return " ".join(line.split()[0] for line in text.splitlines())


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_code_is_the_same(page_blocks: Blocks) -> None:
    assert shape(page_blocks(CHINESE)) == shape(page_blocks(ENGLISH))


def test_the_links_are_the_same_and_each_names_the_other() -> None:
    links = {path: Counter(re.findall(r"\]\(([^)\s]+)\)", prose(path))) for path in (ENGLISH, CHINESE)}
    assert links[ENGLISH].pop(CHINESE.name) == links[CHINESE].pop(ENGLISH.name) == 1
    assert links[CHINESE] == links[ENGLISH]


@pytest.mark.parametrize(
    "pattern",
    [r"^(#+) ", r"`([^`]+)`", r"\d[\d.,]*\d", r"^(\|)", r"^(- )"],
    ids=["headings", "code", "figures", "rows", "points"],
)
def test_sections_names_and_figures_are_the_same(pattern: str) -> None:
    found = [Counter(re.findall(pattern, prose(path), flags=re.MULTILINE)) for path in (CHINESE, ENGLISH)]
    assert found[0] == found[1]


def test_it_is_chinese() -> None:
    headings = re.findall(r"^## (.+)$", prose(CHINESE), flags=re.MULTILINE)
    assert all(re.search(r"[\u4e00-\u9fff]", heading) for heading in headings)
