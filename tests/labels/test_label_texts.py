"""Labels files as somebody else's editor wrote them: what a change does not mean stays as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from swift_core.labels import changes
from swift_core.labels.definitions import Labels
from swift_core.labels.toml_edits import with_value

DAY = date(2026, 11, 25)
Read = Callable[[str], Labels]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_file_keeps_its_line_ends_and_its_byte_order_mark(mark: bytes, cli, project: Path, me: str):
    lines = [
        "# ours",
        "",
        "[labels.height] # h",
        'extends = "line-fitting"',
        'description = """a',
        'b"""',
        'status = "proposed" # s',
        "",
        "",
        "",
    ]
    (project / "labels.toml").write_bytes(mark + "\r\n".join(lines).encode())
    assert cli("labels approve height --why good").code == 0
    assert cli("labels propose width --extends line-fitting --why wide").code == 0
    assert cli("labels rename height level --why clearer").code == 0
    after = (project / "labels.toml").read_bytes()
    assert after.startswith(mark + b"# ours")
    decided = f'{{ by = "{me}", when = DAY, why = '
    told = re.sub(r"when = [\d-]+", "when = DAY", after.removeprefix(mark).decode())
    assert told.split("\r\n") == [
        *lines[:2],
        "[labels.level] # h",
        *lines[3:6],
        'status = "approved" # s',
        f'approval = {decided}"clearer" }}',
        'former = ["height"]',
        "",
        "",
        "[labels.width]",
        'extends = "line-fitting"',
        'status = "proposed"',
        f'proposal = {decided}"wide" }}',
        "",
    ]


def test_a_last_line_without_an_end_stays_so():
    text = '[labels.a]\nextends = "line-fitting"\nstatus = "proposed"'
    after = with_value(text, ("labels", "a"), "status", "approved", "labels.toml")
    assert after == text.replace("proposed", "approved")


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x7f", "\x0b", "\x1c"])
def test_only_line_ends_of_toml_end_a_line(odd: str, read: Read):
    in_file = odd if odd >= "\x80" else f"\\u{ord(odd):04x}"
    text = f'[labels.a]\nextends = "line-fitting"\ndescription = "a{in_file}b"\n[labels.b]\nextends = "x"\n'
    labels = read(text)
    assert labels.at("labels", "b") == "labels.toml:4"
    after = changes.approved(labels, "a", by="ann", when=DAY, why=f"c{odd}d")
    assert f"a{in_file}b" in after and read(after).labels["a"].approval.why == f"c{odd}d"
    shown = changes.diff(text, after, "labels.toml").split("\n")
    assert [line for line in shown if line.startswith("+approval")] == [
        f'+approval = {{ by = "ann", when = 2026-11-25, why = "c\\u{ord(odd):04x}d" }}'
    ]


def test_a_file_that_a_link_leads_to_is_changed_and_the_link_stays(cli, project: Path):
    shared = project / "shared.toml"
    shared.write_text('[labels.height]\nextends = "line-fitting"\n')
    (project / "labels.toml").symlink_to(shared)
    assert cli("labels approve height --why good").code == 0
    assert (project / "labels.toml").is_symlink() and "approved" in shared.read_text()


def test_what_somebody_else_wrote_meanwhile_is_not_lost(cli, project: Path, monkeypatch: pytest.MonkeyPatch):
    path = project / "labels.toml"
    path.write_text('[labels.height]\nextends = "line-fitting"\n')
    diff = changes.diff

    def meanwhile(*given: str) -> str:
        path.write_text("# another\n" + path.read_text())
        return diff(*given)

    monkeypatch.setattr(changes, "diff", meanwhile)
    done = cli("labels approve height --why good")
    assert done.code == 2 and "the file has been changed meanwhile" in done.err
    assert "approved" not in path.read_text()
