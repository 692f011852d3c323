"""A judge over HTTP, against a server of our own that speaks chat completions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from swift_core.errors import SwiftError
from swift_dpo.endpoint import TEMPLATE, Endpoint, filled, shown, verdict_of
from swift_dpo.judges import ComparingJudge, Question

Reply = Callable[[dict[str, Any]], tuple[int, Any]]
Serve = Callable[[Reply], str]


BREAKS_OFF = "a body that breaks off"


class Recorded(list[tuple[str, dict[str, str], dict[str, Any]]]):
    """What was asked: path, headers, body."""


@pytest.fixture
def seen() -> Recorded:
    return Recorded()


@pytest.fixture
def serve(seen: Recorded) -> Iterator[Serve]:
    """Starts a server that answers as told, and gives its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((self.path, dict(self.headers), body))
                status, content = reply(body)
                text = json.dumps(content).encode()
                self.send_response(status)
                if content == BREAKS_OFF:
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.wfile.write(b"50\r\nbus")
                    return
                self.send_header("Content-Length", str(len(text)))
                if status == 302:
                    self.send_header("Location", content)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # who asked does not wait any longer

        server = Server(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def completion(text: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def endpoint(url: str, **options: Any) -> Endpoint:
    return Endpoint(url=url, model="judge-1", waits=(0.0, 0.0), **options)


def longer(body: dict[str, Any]) -> tuple[int, Any]:
    """Prefers the longer answer."""
    text = body["messages"][0]["content"]
    a, b = (text.split(f"<answer_{one}>\n")[1].split(f"\n</answer_{one}>")[0] for one in "ab")
    return 200, completion("A" if len(a) > len(b) else "B" if len(b) > len(a) else "tie")


QUESTIONS = [Question(prompt=f"question {n}") for n in range(12)]


def test_verdicts_come_back_to_their_pairs(serve: Serve, seen: Recorded) -> None:
    judge = ComparingJudge(endpoint(serve(longer), api_key="sk-secret", concurrency=5))
    a = ["x" * (n % 4 + 1) for n in range(12)]
    b = ["yy"] * 12
    found = judge(QUESTIONS, a, b)
    assert [one.verdict for one in found] == ["b", "tie", "a", "a"] * 3
    assert {one.note for one in found} == {None}
    assert len(seen) == 24
    path, headers, body = seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-secret"
    assert (body["model"], body["temperature"]) == ("judge-1", 0)
    asked = {body["messages"][0]["content"] for _, _, body in seen}
    assert filled(TEMPLATE, {"prompt": "question 0", "a": "x", "b": "yy"}) in asked
    assert filled(TEMPLATE, {"prompt": "question 0", "a": "yy", "b": "x"}) in asked


def test_nobody_is_asked_for_nothing_and_no_key_is_sent_where_there_is_none(
    serve: Serve, seen: Recorded
) -> None:
    judge = endpoint(serve(longer))
    assert judge([]) == [] and not seen
    judge([(QUESTIONS[0], "a", "b")])
    assert "Authorization" not in seen[0][1]


@pytest.mark.parametrize("content", ["busy", BREAKS_OFF])
def test_what_passes_is_tried_again(serve: Serve, seen: Recorded, content: str) -> None:
    def flaky(body: dict[str, Any]) -> tuple[int, Any]:
        return (503, content) if len(seen) < 3 else (200, completion("B"))

    assert endpoint(serve(flaky))([(QUESTIONS[0], "a", "b")]) == ["b"]
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("status", "content", "tries", "message"),
    [
        (500, "out of order", 3, "gave no reply in 3 tries, the last: HTTP 500"),
        (503, BREAKS_OFF, 3, "gave no reply in 3 tries, the last: HTTP 503 Service Unavailable: $"),
        (401, "bad key sk-secret", 1, "refuses: HTTP 401 Unauthorized: .*bad key <REDACTED>"),
        pytest.param(401, "." * 195 + "sk-secret", 1, "refuses: .*<RED", id="a key where the text is cut"),
        (200, "you are sk-secret", 1, "expected a reply with choices.*you are <REDACTED>"),
        (200, {"error": "sk"}, 1, "expected a reply with choices"),
        (302, "http://127.0.0.1:1/v1", 1, "refuses: HTTP 302"),
    ],
)
def test_what_does_not_pass_is_told_without_the_key(
    serve: Serve, seen: Recorded, status: int, content: Any, tries: int, message: str
) -> None:
    judge = endpoint(serve(lambda _: (status, content)), api_key="sk-secret")
    with pytest.raises(SwiftError, match=message) as caught:
        judge([(QUESTIONS[0], "a", "b")])
    assert len(seen) == tries
    assert "sk-secret" not in str(caught.value) and "sk-secret" not in repr(judge)


def test_an_endpoint_that_is_not_there_or_does_not_reply_is_told(serve: Serve) -> None:
    url = "http://user:password@127.0.0.1:9/v1"
    with pytest.raises(SwiftError, match=r"http://127\.0\.0\.1:9/v1 gave no reply in 3 tries") as caught:
        endpoint(url)([(QUESTIONS[0], "a", "b")])
    assert "password" not in str(caught.value)
    waiting = threading.Event()

    def slow(_: dict[str, Any]) -> tuple[int, Any]:
        waiting.wait(10)
        return 200, completion("A")

    judge = endpoint(serve(slow), timeout_seconds=0.1)
    with pytest.raises(SwiftError, match=r"gave no reply in 3 tries, the last: .*timed out"):
        judge([(QUESTIONS[0], "a", "b")])
    waiting.set()


def test_nobody_waits_for_others_after_the_first_failure(serve: Serve, seen: Recorded) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][0]["content"]
        if "question 3" not in text:
            return 503, "busy"  # is tried again, in a minute
        while len(seen) < 4:
            time.sleep(0.01)
        return 401, "no"

    judge = Endpoint(url=serve(reply), model="judge-1", waits=(60.0,) * 3, concurrency=4)
    before, threads = time.monotonic(), threading.active_count()
    with pytest.raises(SwiftError, match="refuses: HTTP 401"):
        judge([(question, "a", "b") for question in QUESTIONS])
    assert time.monotonic() - before < 20
    while threading.active_count() > threads and time.monotonic() - before < 20:
        time.sleep(0.01)  # those that sleep wake up and end
    assert threading.active_count() <= threads
    assert len(seen) < len(QUESTIONS), "what waited for its turn was asked"


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", "a"),
        (" b.\n", "b"),
        ("Tie", "tie"),
        ("**[[A]]**", "a"),
        ("B is shorter, so\nA", "a"),
        ("A is better", None),
        ("Answer A", None),
        ("A or B", None),
        ("A\nbecause it is shorter", None),
        ("", None),
        ("C", None),
    ],
)
def test_a_reply_says_one_of_three_words_or_nothing(reply: str, verdict: str | None) -> None:
    assert verdict_of(reply) == verdict


def test_braces_of_answers_are_no_places() -> None:
    template = '{"request": "{prompt}", "one": "{a}", "two": "{b}"}'
    values = {"prompt": "{a}", "a": "{b} {x}", "b": "{prompt}"}
    assert filled(template, values) == '{"request": "{a}", "one": "{b} {x}", "two": "{prompt}"}'


def test_a_conversation_is_shown_with_its_roles() -> None:
    assert shown([{"role": "user", "content": "hi"}]) == "hi"
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"text": "hi"}]}]
    assert shown(turns) == 'system: be brief\n\nuser: [{"text": "hi"}]'
