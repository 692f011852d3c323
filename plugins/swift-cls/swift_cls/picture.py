"""A confusion matrix as a picture, by matplotlib's objects only: no pyplot, no state outside the figure."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ft2font import FT2Font

# Shape legend: C classes.

_SYSTEM_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "SimHei",
    "Microsoft YaHei",
    "PingFang SC",
    "PingFang HK",
    "Hiragino Sans GB",
    "Heiti TC",
    "Malgun Gothic",
    "Arial Unicode MS",
)
"""Families that have Chinese, Japanese or Korean glyphs on Linux, Windows and macOS."""

_MPLFONTS_FILES = ("SimHei.ttf", "NotoSansCJKsc-Regular.otf")

_DOTS_PER_INCH = 120
_MOST_COUNTED = 25
"""Classes up to which the counts are written into the cells."""

_MOST_NAMED = 100
"""Classes up to which the picture grows and each class is named."""

_OWN_TEXT = "predicted, true, share of the true class, 0123456789.…"
"""What a picture writes besides names and title, in the same font."""

_LONGEST_NAME = 32
"""In columns; a Chinese character takes two."""


def confusion_picture(matrix: np.ndarray, names: Sequence[str], *, title: str = "") -> bytes:
    """Draw a confusion matrix; the colour is the share of the rows of the true class.

    Counts above zero are written into the cells of up to 25 classes. The picture grows up to 100 classes;
    of more, only some are named. The font is the one that can write most of them; each name that it can't
    write is replaced by the number of its class, from 0 to C - 1.

    Args:
        matrix: [C, C] rows of each class (first axis) that were given each class (second axis).
        names: [C]
        title: above the picture; left out if no font can write it.

    Returns:
        A PNG file.
    """
    names, title = [_short(name) for name in names], _printable(title)
    font, written = font_for([*names, title])
    names = [name if name in written else str(number) for number, name in enumerate(names)]
    title = title if title in written else ""
    figure, axes = _colours(matrix, font)
    cell_points = 72 * figure.get_figheight() / len(names)
    _name_axes(axes, names, cell_points=cell_points, font=font)
    axes.set_title(title, fontproperties=_properties(font, 11), parse_math=False)
    if len(names) <= _MOST_COUNTED:
        _write_counts(axes, matrix, cell_points=cell_points, font=font)
    file = io.BytesIO()
    # Without the version of matplotlib in it, the same matrix gives the same bytes.
    metadata = {"Software": None}
    figure.savefig(
        file, format="png", bbox_inches="tight", pad_inches=0.15, facecolor="white", metadata=metadata
    )
    return file.getvalue()


def unwritten(names: Sequence[str]) -> list[int]:
    """The classes whose numbers stand for their names in the picture."""
    short = [_short(name) for name in names]
    _, written = font_for(short)
    return [number for number, name in enumerate(short) if name not in written]


def font_for(texts: Sequence[str]) -> tuple[Path | None, set[str]]:
    """The file of the font that can write most of the texts, the first of several, and which these are.

    matplotlib's own DejaVu Sans is asked first, then the system's fonts for Chinese, Japanese and Korean,
    then those of the package ``mplfonts``, which helps with Chinese.
    """
    best: tuple[Path | None, set[str]] = (None, set())
    for file in _font_files():
        glyphs = _glyphs(file)
        own = glyphs.issuperset(map(ord, _OWN_TEXT))
        written = {text for text in texts if own and glyphs.issuperset(map(ord, _printable(text)))}
        if own and (best[0] is None or len(written) > len(best[1])):
            best = file, written
        if own and written.issuperset(texts):
            break
    return best


def _font_files() -> Iterator[Path]:
    yield Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    # The list matplotlib has read already: its findfont reads all of the system's fonts anew on a miss. The
    # last of a family is taken, so those of normal weight are put there.
    entries = sorted(fontManager.ttflist, key=lambda entry: (entry.style == "normal", entry.weight == 400))
    installed = {entry.name: entry.fname for entry in entries}
    yield from (Path(installed[name]) for name in _SYSTEM_FONTS if name in installed)
    # Found, not imported: importing mplfonts changes matplotlib's settings.
    package = find_spec("mplfonts")
    for folder in (package and package.submodule_search_locations) or ():
        yield from (Path(folder, "fonts", name) for name in _MPLFONTS_FILES)


def _glyphs(file: Path) -> set[int]:
    try:
        return set(FT2Font(str(file)).get_charmap())
    except (OSError, RuntimeError):
        # matplotlib's list may name a font that was removed, or that it cannot read.
        return set()


def _properties(font: Path | None, points: float) -> FontProperties:
    return FontProperties(fname=None if font is None else str(font), size=points)


def _shares(matrix: np.ndarray) -> np.ndarray:
    """Each row divided by its sum, [C, C]; 0 where the class has no rows."""
    return np.asarray(matrix / matrix.sum(1, keepdims=True).clip(1))


def _colours(matrix: np.ndarray, font: Path | None) -> tuple[Figure, Axes]:
    """The figure with its cells, grid and colour bar."""
    count = len(matrix)
    cell_inches = 0.5 if count <= _MOST_COUNTED else 0.18 * min(1.0, _MOST_NAMED / count)
    # Or the colour bar of a small matrix would have no room for its label.
    side = max(cell_inches * count, 2.0)
    figure = Figure(figsize=(side, side), dpi=_DOTS_PER_INCH)
    # The axes fill the figure and what surrounds them widens it on saving, so cells have the size meant.
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    # By the square root, or a mistake in 20 rows would be as good as white.
    depths = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(_shares(matrix), cmap="Blues", norm=depths, aspect="auto", interpolation="nearest")
    place = figure.add_axes((1 + 0.15 / side, 0.0, 0.15 / side, min(1.0, 3 / side)))
    bar = figure.colorbar(image, cax=place)
    bar.set_label("share of the true class", fontproperties=_properties(font, 8))
    bar.ax.tick_params(labelsize=7)
    _draw_grid(axes, count)
    return figure, axes


def _name_axes(axes: Axes, names: Sequence[str], *, cell_points: float, font: Path | None) -> None:
    step = -(-len(names) // _MOST_NAMED)
    ticks = range(0, len(names), step)
    shown = [names[tick] for tick in ticks]
    points = min(10.0, 0.65 * cell_points * step)
    # A column is a bit more than half as wide as the font is high.
    upright = max(map(_columns, shown), default=0) * 0.62 * points < cell_points * step
    properties = _properties(font, points)
    axes.set_xticks(ticks, shown, rotation=0 if upright else 90, fontproperties=properties, parse_math=False)
    axes.set_yticks(ticks, shown, fontproperties=properties, parse_math=False)
    axes.set_xlabel("predicted", fontproperties=_properties(font, 10))
    axes.set_ylabel("true", fontproperties=_properties(font, 10))


def _draw_grid(axes: Axes, count: int) -> None:
    if count > _MOST_NAMED:
        return
    edges = [edge - 0.5 for edge in range(1, count)]
    across = [((-0.5, edge), (count - 0.5, edge)) for edge in edges]
    down = [((edge, -0.5), (edge, count - 0.5)) for edge in edges]
    axes.add_collection(LineCollection(across + down, colors="0.85", linewidths=0.5), autolim=False)


def _write_counts(axes: Axes, matrix: np.ndarray, *, cell_points: float, font: Path | None) -> None:
    shares = _shares(matrix)
    digits = len(str(int(matrix.max(initial=0))))
    properties = _properties(font, min(9.0, 1.4 * cell_points / digits))
    for true, given in np.argwhere(matrix).tolist():
        axes.text(
            given,
            true,
            str(int(matrix[true, given])),
            ha="center",
            va="center",
            color="white" if shares[true, given] > 0.5 else "black",
            fontproperties=properties,
        )


def _short(name: str) -> str:
    """The name, its middle cut out where it is long: names often share their beginning."""
    name = _printable(name)
    if _columns(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    head, tail = name, name
    while _columns(head) > half:
        head = head[:-1]
    while _columns(tail) > half:
        tail = tail[1:]
    return f"{head}…{tail}"


def _printable(text: str) -> str:
    """On one line, without the control characters and marks of direction that no font has a glyph for."""
    line = " ".join(text.split())
    return "".join(character for character in line if unicodedata.category(character) not in ("Cc", "Cf"))


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
