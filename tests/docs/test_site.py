"""The docs as a site: every page is in the nav, links of its pages hold, and it builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def pages_in(nav: Any) -> Iterator[str]:
    """The pages of a nav, from top to bottom."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_in(entry)


NAV = list(pages_in(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors_of(path: Path) -> set[str]:
    """Anchors of the headings of a page, as docs/site_pages.py and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    """Links of a page to files or anchors that are not there."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        outside = "://" in target or target.startswith("mailto:")
        if not outside and not (file.exists() and (not anchor or anchor in anchors_of(file))):
            broken.append(target)
    return broken


def test_every_page_is_in_the_nav_once() -> None:
    assert len(NAV) == len(set(NAV))
    documented = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    packages = {str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*/README.md")}
    assert documented | packages <= set(NAV), "add what is missing to mkdocs.yml"


@pytest.mark.parametrize("page", NAV)
def test_links_hold(page: str) -> None:
    assert (ROOT / page).is_file()
    assert broken_links(ROOT / page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading: `x.y`\n```\n# no heading\n```\n", encoding="utf-8")
    links = "[a](other.md#a-heading-xy) [b](other.md#no-heading) [c](none.md) [d](https://example.org/x)"
    (tmp_path / "page.md").write_text(links, encoding="utf-8")
    assert broken_links(tmp_path / "page.md") == ["other.md#no-heading", "none.md"]


@pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("material") is None,
    reason='mkdocs-material is not installed: pip install -e ".[docs]"',
)
def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    batches = (tmp_path / "site/docs/batches/index.html").read_text(encoding="utf-8")
    assert 'href="../../benchmarks/RESULTS/#long-documents"' in batches
    assert (tmp_path / "site/README.zh-CN/index.html").is_file()
