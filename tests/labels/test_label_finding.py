"""Where the labels file is looked for, and what is said when it can't be had."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from swift_core import TrainingArguments, UserError
from swift_core.labels.finding import find_labels

LABEL = '[labels.{name}]\nextends = "line-fitting"\n'


def write(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LABEL.format(name=name))
    return path


def name_of(**where: object) -> str:
    labels = find_labels(**where)  # type: ignore[arg-type]
    assert labels is not None
    return next(iter(labels.labels))


def test_the_nearest_file_up_to_the_root_of_the_repository_is_taken(tmp_path: Path):
    inner = tmp_path / "repository" / "team" / "task"
    inner.mkdir(parents=True)
    write(tmp_path / "labels.toml", "outside")
    (tmp_path / "repository" / ".git").mkdir()
    assert find_labels(beside=inner, environment={}) is None
    write(tmp_path / "repository" / "labels.toml", "top")
    assert name_of(beside=inner, environment={}) == "top"
    write(inner.parent / "labels.toml", "team")
    assert name_of(beside=inner, environment={}) == "team"
    assert find_labels(beside=tmp_path, environment={}).at("labels", "outside").endswith("labels.toml:1")


def test_the_platforms_file_wins_over_one_beside_and_the_option_over_both(project: Path, tmp_path: Path):
    write(project / "labels.toml", "beside")
    platform = str(write(tmp_path / "platform.toml", "platform"))
    option = str(write(tmp_path / "option.toml", "option"))
    environment = {"SWIFT_LABELS": platform}
    assert name_of(environment=environment) == "platform"
    labels = find_labels(option, environment=environment)
    assert next(iter(labels.labels)) == "option"
    assert labels.found_by == f"option labels, not SWIFT_LABELS={platform}"


def test_the_file_beside_the_run_file_holds_wherever_the_command_is_given(
    project, cli, monkeypatch, tmp_path
):
    write(project / "labels.toml", "speed-curve")
    monkeypatch.chdir(tmp_path)
    done = cli("check project/run.yaml dataset=project/train.csv")
    assert "is proposed, not approved" in done.err
    assert "There is no labels file here" in cli(f"check {write_run(tmp_path)}").err


def write_run(folder: Path) -> Path:
    (folder / ".git").mkdir()
    (folder / "other.yaml").write_text("task_type: speed-curve\n")
    return folder / "other.yaml"


def test_the_option_names_a_file_in_the_run_file_on_the_command_line_and_in_python(project, cli):
    write(project / "rules" / "labels.toml", "speed-curve")
    for command in ("check run.yaml labels=rules/labels.toml", "labels list --labels rules/labels.toml"):
        done = cli(command)
        assert "speed-curve" in done.out + done.err and "no labels file" not in done.err
    assert TrainingArguments("speed-curve", labels="rules/labels.toml").label == "speed-curve"
    missing = cli("check run.yaml labels=nowhere.toml")
    assert (
        missing.code == 2
        and "nowhere.toml: expected a labels file (option labels), found none" in missing.err
    )
    with pytest.raises(UserError, match="labels: expected a text or null, found 3"):
        TrainingArguments("line-fitting", labels=3)
    assert "3: expected a labels file" in cli("check run.yaml task_type=line-fitting labels=3").err


def test_a_file_that_the_platform_names_and_is_not_there_is_no_free_pass(project, cli, monkeypatch):
    monkeypatch.setenv("SWIFT_LABELS", "/nowhere/labels.toml")
    done = cli("check run.yaml task_type=line-fitting")
    assert done.code == 2 and "/nowhere/labels.toml: expected a labels file (SWIFT_LABELS)" in done.err


# -- addresses --------------------------------------------------------------------------------------------


class Server(HTTPServer):
    """Serves ``text``; counts how often it was asked."""

    text = ""
    asked = 0
    moved_to: str | None = None


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked += 1
            if served.moved_to and self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", served.moved_to)
                self.end_headers()
                return
            self.send_response(404 if self.path == "/no" else 200)
            self.end_headers()
            self.wfile.write(served.text.encode())

        def log_message(self, *_: object) -> None:
            return

    served = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def address_of(server: Server, path: str = "/labels.toml") -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


def test_an_address_is_asked_anew_each_time(server: Server):
    server.text = LABEL.format(name="first")
    environment = {"SWIFT_LABELS": address_of(server) + "?key=secret"}
    labels = find_labels(environment=environment)
    assert list(labels.labels) == ["first"] and labels.place == address_of(server), "a query may hold a key"
    server.text = LABEL.format(name="second")
    assert name_of(environment=environment) == "second"
    assert server.asked == 2


def test_faults_of_a_fetched_file_have_its_address_and_line(server: Server):
    server.text = "[labels.x]\n"
    with pytest.raises(UserError, match=rf"^{address_of(server)}:1: label 'x': extends is missing"):
        find_labels(address_of(server))


def test_an_address_that_does_not_answer_is_told_and_no_older_copy_is_used(server: Server):
    with pytest.raises(
        UserError, match=r"can't be fetched \(option labels\): Not Found. No older copy is used"
    ):
        find_labels(address_of(server, "/no"))
    server.text = "#" * 1_000_001
    with pytest.raises(UserError, match="expected a labels file, found more than 1,000,000 bytes"):
        find_labels(address_of(server))


def test_only_encrypted_addresses_are_trusted_also_behind_a_redirect(server: Server):
    with pytest.raises(UserError, match="expected an https address or a path, found http"):
        find_labels("http://labels.example/labels.toml")
    with pytest.raises(UserError, match="found ftp"):
        find_labels("ftp://labels.example/labels.toml")
    with pytest.raises(UserError, match="without user and password") as refused:
        find_labels("https://ann:s3cret@labels.example/labels.toml")
    assert "s3cret" not in str(refused.value)
    server.moved_to = "http://labels.example/labels.toml"
    with pytest.raises(
        UserError, match=r"it redirects to http://labels.example/labels.toml: expected an https"
    ):
        find_labels(address_of(server, "/moved"))


def test_a_file_at_an_address_is_shown_its_change_and_not_written(server: Server, cli):
    server.text = LABEL.format(name="speed-curve")
    done = cli(f"labels approve speed-curve --why x --labels {address_of(server)}")
    assert done.code == 2 and "an address can't be written to" in done.err
    assert '+status = "approved"' in done.out
