"""A hook of mkdocs: pages of the whole repository under their own paths, and anchors as GitHub makes them.

mkdocs knows one folder of pages; ours link to files beside it (``../benchmarks/RESULTS.md``). Where each page
keeps its path from the repository's root, all these links hold without being rewritten.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\(([^)\s#]+)")
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Anchors of headings are those that links in the repository use."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def slug(heading: str, separator: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of docs/ and those that the nav names, and what they link to."""
    pages = sorted({ROOT / "docs" / file.src_uri for file in files.documentation_pages()} | nav_pages(config))
    linked = {target for page in pages for target in linked_files(page)} - {*pages}
    found = [File.generated(config, _uri(page), abs_src_path=str(page)) for page in pages]
    for target in sorted(linked):
        # A page that is linked and not in the nav is shown, and mkdocs need not ask for it there.
        file = File.generated(config, _uri(target), abs_src_path=str(target))
        file.inclusion = InclusionLevel.NOT_IN_NAV
        found.append(file)
    theme = [file for file in files if not (ROOT / "docs" / file.src_uri).exists()]
    return Files([*theme, *found])


def nav_pages(config: MkDocsConfig) -> set[Path]:
    """The pages that the nav names."""
    return {ROOT / name for name in re.findall(r"[\w./-]+\.md", str(config.nav))}


def linked_files(page: Path) -> set[Path]:
    """Files of the repository that a page links to."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    targets = {(page.parent / name).resolve() for name in _LINK.findall(text) if "://" not in name}
    return {target for target in targets if target.is_file()}


def _uri(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
