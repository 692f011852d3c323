"""Which task types are installed, and what a broken or greedy package can spoil: nothing but itself."""

from __future__ import annotations

import pytest

from swift_core import PluginError, UserError
from swift_core.registry import fault_of, find_claims, find_task, find_unreadable, load_spec

SPEC = """
from swift_core import TaskSpec
SPEC = TaskSpec(name={name!r}, summary="a task", columns=(), implementation="{module}.hooks")
"""


def task_package(install, package: str, name: str, spec: str | None = None, **parts) -> None:
    module = package.replace("-", "_")
    text = SPEC.format(name=name, module=module) if spec is None else spec
    install(
        package,
        files={f"{module}/__init__.py": "", f"{module}/spec.py": text},
        entry_points={"swift.tasks": {name: f"{module}.spec:SPEC"}},
        **parts,
    )


def test_a_task_type_is_found_by_its_entry_point(install):
    task_package(install, "acme-ner", "legal-ner", version="2.3")
    claim = find_task("legal-ner")
    assert (claim.package, claim.version, claim.qualified_name) == ("acme-ner", "2.3", "acme-ner:legal-ner")
    assert load_spec(claim).summary == "a task"


def test_a_typo_is_answered_with_the_name_that_was_meant(install):
    task_package(install, "acme-ner", "legal-ner")
    with pytest.raises(UserError, match="Did you mean 'legal-ner'"):
        find_task("legl-ner")


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_our_own_task_types_name_the_package_to_install(monkeypatch, name):
    monkeypatch.setattr("swift_core.registry.distributions", list)
    with pytest.raises(UserError, match="pip install swift-dpo"):
        find_task(name)


def test_two_owners_of_a_name_are_both_refused_and_can_be_told_apart(install):
    task_package(install, "acme-a", "ner")
    task_package(install, "acme-b", "ner")
    with pytest.raises(PluginError, match="task_type=acme-a:ner or task_type=acme-b:ner"):
        find_task("ner")
    assert find_task("acme-b:ner").package == "acme-b"


def test_a_package_that_claims_one_of_our_names_harms_only_itself(install):
    task_package(install, "aaa-first-in-the-alphabet", "embedding")
    assert find_task("embedding").package == "swift-embedding"
    claims = find_claims()
    faults = {c.package: fault_of(c, claims) for c in claims if c.name == "embedding"}
    assert faults["swift-embedding"] is None
    assert "belongs to swift-embedding" in faults["aaa-first-in-the-alphabet"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemError('boom')", "SystemError: boom"),
        ("SPEC = {'name': 'ner'}", "is a dict, expected a swift_core.TaskSpec"),
        ("SPEK = 1", "AttributeError"),
        (SPEC.format(name="other", module="m"), "the spec calls itself 'other'"),
        (
            "from swift_core import TaskSpec\nSPEC = TaskSpec(name='NER', summary='', columns=(), "
            "implementation='m')",
            "use lower-case words joined by '-'",
        ),
    ],
)
def test_a_broken_spec_is_a_sentence_that_names_the_package(install, spec, message):
    task_package(install, "acme-broken", "ner", spec)
    task_package(install, "acme-fine", "fine")
    with pytest.raises(PluginError, match="package acme-broken") as caught:
        load_spec(find_task("ner"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert load_spec(find_task("fine")).name == "fine"


def test_a_name_that_breaks_the_rule_is_refused(install):
    task_package(install, "acme-ner", "Legal_NER", SPEC.format(name="legal-ner", module="m"))
    with pytest.raises(PluginError, match="lower-case words joined by '-'"):
        find_task("Legal_NER")


@pytest.mark.parametrize("content", [b"[swift.tasks]\nno equals sign here\n", b"\xff\xfe[swift.tasks]\n"])
def test_unreadable_entry_points_harm_nobody_else(install, content):
    task_package(install, "acme-fine", "fine")
    site = install("acme-garbled", entry_points={})
    (site / "acme_garbled-1.0.dist-info" / "entry_points.txt").write_bytes(content)
    assert find_task("fine").package == "acme-fine"
    assert find_unreadable() == ["acme_garbled-1.0.dist-info"]


def test_metadata_without_a_name_or_in_another_encoding_still_gives_a_claim(install):
    task_package(install, "acme-odd", "odd")
    site = install("acme-odder", entry_points={"swift.tasks": {"odd": "acme_odder.spec:SPEC"}})
    (site / "acme_odd-1.0.dist-info" / "METADATA").write_bytes(b"Name: \xff\n")
    (site / "acme_odder-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    assert len([claim.package for claim in find_claims() if claim.name == "odd"]) == 2


def test_a_package_that_exits_or_prints_on_import_disturbs_nobody(install, capsys):
    task_package(install, "acme-exit", "leaver", "raise SystemExit(3)")
    task_package(install, "acme-loud", "loud", "print('hello')\n" + SPEC.format(name="loud", module="m"))
    with pytest.raises(PluginError, match="SystemExit: 3"):
        load_spec(find_task("leaver"))
    assert load_spec(find_task("loud")).name == "loud"
    assert capsys.readouterr().out == ""
