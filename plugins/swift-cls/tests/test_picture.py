"""The picture of a confusion matrix: it is a PNG, its text can be read, and it leaves matplotlib alone."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from swift_cls import picture
from swift_cls.picture import confusion_picture, font_for, unwritten

CHINESE = ["科技", "体育", "娱乐", "政治", "健康"]
DEJAVU = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
NO_FONT_HAS_IT = "\u0378"  # not assigned

needs_mplfonts = pytest.mark.skipif(find_spec("mplfonts") is None, reason="mplfonts is not installed")


def some_matrix(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (count, count)) + 30 * np.eye(count, dtype=int)


def decoded(png: bytes) -> np.ndarray:
    """[height, width] of grey from 0 to 255."""
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("L"))


def middle_of(pixels: np.ndarray) -> np.ndarray:
    """What is around the number of the only class."""
    height, width = pixels.shape
    return pixels[height // 3 : height // 2, width // 3 : width // 2]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The tick labels, counts and title that a picture was given."""
    seen: dict[str, list[str]] = {"names": [], "counts": [], "title": []}
    set_yticks, text, set_title = Axes.set_yticks, Axes.text, Axes.set_title

    def ticks(self: Axes, at: Sequence[float], labels: Sequence[str] = (), **options: object) -> object:
        seen["names"] += labels
        return set_yticks(self, at, labels or None, **options)

    def write(self: Axes, x: float, y: float, s: str, **options: object) -> object:
        seen["counts"].append(s)
        return text(self, x, y, s, **options)

    def title(self: Axes, label: str, **options: object) -> object:
        seen["title"].append(label)
        return set_title(self, label, **options)

    monkeypatch.setattr(Axes, "set_yticks", ticks)
    monkeypatch.setattr(Axes, "text", write)
    monkeypatch.setattr(Axes, "set_title", title)
    return seen


def test_it_grows_with_the_classes_up_to_a_point() -> None:
    sizes = [
        decoded(confusion_picture(some_matrix(c), [f"c{n}" for n in range(c)])).shape for c in (2, 8, 30)
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    wide = decoded(confusion_picture(some_matrix(400), [f"c{n}" for n in range(400)])).shape
    assert max(sizes[-1]) < max(wide) < 3000


def test_the_same_matrix_gives_the_same_bytes() -> None:
    first, second = (confusion_picture(some_matrix(3), ["a", "b", "c"], title="t") for _ in range(2))
    assert first == second
    assert b"Software" not in first


@needs_mplfonts
def test_chinese_names_are_drawn() -> None:
    """matplotlib warns of a glyph that is missing, and pytest makes that an error."""
    drawn = decoded(confusion_picture(some_matrix(5), CHINESE, title="混淆矩阵"))
    numbers = decoded(confusion_picture(some_matrix(5), list("01234")))
    assert drawn.shape != numbers.shape
    assert font_for(CHINESE)[0] not in (None, DEJAVU)


@pytest.mark.parametrize("count", [25, 26])
def test_counts_are_written_up_to_25_classes(count: int, shown: dict[str, list[str]]) -> None:
    matrix = some_matrix(count)
    confusion_picture(matrix, ["x"] * count)
    assert shown["counts"] == ([str(n) for n in matrix.ravel() if n] if count == 25 else [])


def test_counts_can_be_read_on_dark_and_on_light_cells() -> None:
    dark = middle_of(decoded(confusion_picture(np.array([[7]]), ["a"])))
    assert np.median(dark) < 100
    assert dark.max() > 200
    light = middle_of(decoded(confusion_picture(np.ones((5, 5), int), list("abcde"))))
    assert np.median(light) > 150
    assert light.min() < 60


def test_a_class_without_rows_and_an_empty_matrix_are_legal(shown: dict[str, list[str]]) -> None:
    decoded(confusion_picture(np.array([[0, 0], [1, 2]]), ["a", "b"]))
    decoded(confusion_picture(np.zeros((2, 2), int), ["a", "b"]))
    assert shown["counts"] == ["1", "2"]


def test_long_names_lose_their_middle(shown: dict[str, list[str]]) -> None:
    names = ["balance_not_updated_after_bank_transfer", "科" * 30, "n" * 32, "short"]
    picture_names = [picture._short(name) for name in names]
    assert picture_names == ["balance_not_upd…r_bank_transfer", "科" * 7 + "…" + "科" * 7, "n" * 32, "short"]
    confusion_picture(some_matrix(2), ["a" * 20 + "b" * 20, "c"])
    assert shown["names"] == ["a" * 15 + "…" + "b" * 15, "c"]


def test_long_names_are_upright_and_short_ones_are_not() -> None:
    short, long = (decoded(confusion_picture(some_matrix(3), [name] * 3)) for name in ("ab", "ab" * 10))
    assert long.shape[0] > short.shape[0] + 100


def test_of_many_classes_some_are_named(shown: dict[str, list[str]]) -> None:
    confusion_picture(some_matrix(150), [f"c{n}" for n in range(150)])
    assert shown["names"] == [f"c{n}" for n in range(0, 150, 2)]


def test_names_are_text_and_not_formulas(shown: dict[str, list[str]]) -> None:
    names = ["$a_b$", "two\nlines\tof it", "bell\x07"]
    decoded(confusion_picture(some_matrix(3), names, title="$x_$ {"))
    assert shown["names"] == ["$a_b$", "two lines of it", "bell"]
    assert shown["title"] == ["$x_$ {"]
    formula = decoded(confusion_picture(some_matrix(1), ["$\\frac{1}{2}$"]))
    spelled = decoded(confusion_picture(some_matrix(1), ["\\frac{1}{2}xx"]))
    assert abs(formula.shape[1] - spelled.shape[1]) < 20


def test_names_no_font_can_write_become_numbers(shown: dict[str, list[str]]) -> None:
    assert font_for(["fine", NO_FONT_HAS_IT]) == (DEJAVU, {"fine"})
    assert unwritten(["fine", NO_FONT_HAS_IT]) == [1]
    decoded(confusion_picture(some_matrix(2), ["fine", NO_FONT_HAS_IT], title="still here"))
    assert shown["names"] == ["fine", "1"]
    assert shown["title"] == ["still here"]


@pytest.mark.parametrize("files", [[], [DEJAVU], [Path("/no/such/font.ttf"), DEJAVU], [Path(__file__)]])
def test_without_a_font_for_chinese(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, shown: dict[str, list[str]]
) -> None:
    monkeypatch.setattr(picture, "_font_files", lambda: iter(files))
    assert font_for(CHINESE)[1] == set()
    decoded(confusion_picture(some_matrix(5), CHINESE, title="混淆矩阵"))
    assert shown["names"] == list("01234")
    assert shown["title"] == [""]


def test_the_first_font_with_all_glyphs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    other = DEJAVU.with_name("DejaVuSans-Bold.ttf")
    monkeypatch.setattr(picture, "_font_files", lambda: iter([other, DEJAVU]))
    assert font_for(["plain", "a\nb"]) == (other, {"plain", "a\nb"})
    assert font_for([])[0] == other
    monkeypatch.setattr(picture, "_font_files", lambda: iter([Path("/no/such/font.ttf"), DEJAVU]))
    assert font_for([])[0] == DEJAVU


def test_fonts_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def entry(name: str, file: str, style: str = "normal", weight: int = 400) -> SimpleNamespace:
        return SimpleNamespace(name=name, fname=file, style=style, weight=weight)

    entries = [
        entry("SimHei", "simhei.ttf"),
        entry("Noto Sans CJK SC", "noto.ttc"),
        entry("Noto Sans CJK SC", "noto-bold.ttc", weight=700),
        entry("SimHei", "simhei-italic.ttf", style="italic"),
        entry("Times", "times.ttf"),
    ]
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(picture, "fontManager", SimpleNamespace(ttflist=entries))
    monkeypatch.setattr(picture, "find_spec", lambda name: package)
    system = [DEJAVU, Path("noto.ttc"), Path("simhei.ttf")]
    expected = [tmp_path / "fonts" / name for name in ("SimHei.ttf", "NotoSansCJKsc-Regular.otf")]
    assert list(picture._font_files()) == [*system, *expected]
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    assert list(picture._font_files()) == system


def test_matplotlib_is_left_as_it_was() -> None:
    code = (
        "import sys, matplotlib, numpy\n"
        # Reading the setting of the backend imports pyplot.
        "settings = lambda: [(k, matplotlib.rcParams[k]) for k in matplotlib.rcParams if k != 'backend']\n"
        "before = settings()\n"
        "from swift_cls.picture import confusion_picture\n"
        "confusion_picture(numpy.eye(2), ['科', 'b'])\n"
        "assert settings() == before\n"
        "print([m for m in ('matplotlib.pyplot', 'mplfonts') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
