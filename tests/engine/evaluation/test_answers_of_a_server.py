"""Answers that a vLLM server generates: a stand-in of its protocol with our own backbone behind it."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import torch

from engine.core.errors import UserError
from engine.evaluation.eval_targets import ScoredRow
from engine.evaluation.predictor import Predictor
from engine.evaluation.vllm.backend import announce
from prompt_modules.bank import JoinedBank
from tests.engine.asked_task import SOLVED


class Completions(BaseHTTPRequestHandler):
    """Stands for vLLM: greedy answers of the very backbone to embeddings; fails every third time, or always in the
    way it is told.
    """

    backbone: Any = None
    layout: Any = None
    calls = 0
    always: tuple[int, dict[str, str]] | None = None

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "mine"}, {"id": "other"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).calls += 1
        if self.always or type(self).calls % 3 == 0:
            code, headers = self.always or (503, {})
            self._send(code, {}, headers)
            return
        embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)[None]
        embed, ids = self.backbone.model.get_input_embeddings(), []
        with torch.no_grad():
            while len(ids) < body["max_tokens"] and body["stop_token_ids"][0] not in ids:
                ids.append(int(self.backbone.model(inputs_embeds=embeds).logits[0, -1].argmax()))
                embeds = torch.cat([embeds, embed(torch.tensor([ids[-1:]]))], 1)
        ended = ids[-1] == body["stop_token_ids"][0]
        choice = {"text": f" {self.layout.answer_text(ids)}\n", "finish_reason": "stop" if ended else "length"}
        self._send(200, {"choices": [choice], "usage": {"completion_tokens": len(ids)}})

    def _send(self, code: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(backbone, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.evaluation.vllm.server.WAIT", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):  # where a request must not go
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setattr(Completions, "backbone", backbone)
    monkeypatch.setattr(Completions, "always", None)
    server = HTTPServer(("127.0.0.1", 0), Completions)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_answers_as_we_do(
    address: str, make_holder, bank: JoinedBank, task, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    local = make_holder(**{"evaluate.max_new_tokens": 6, "evaluate.batch_size": 3})
    served = make_holder(
        **{
            "evaluate.max_new_tokens": 6,
            "evaluate.batch_size": 3,
            "evaluate.server": address,
            "evaluate.server_model": "mine",
        }
    )
    monkeypatch.setattr(Completions, "layout", local.context.layout)
    announce(served)
    announce(local)
    assert capsys.readouterr().out.count("WARNING notes leave this process") == 1
    for answer in ("generation", "likelihood"):
        for own, row, solved in ((bank, 0, ()), (bank, 1, ()), (None, 0, SOLVED)):
            askers = [Predictor(s, own, solved) for s in (local, served)]
            before = Completions.calls
            texts = [predictor.answers(task(answer), row) for predictor in askers]
            assert (
                texts[0] == texts[1]
                and askers[0].n_truncated == askers[1].n_truncated
                and askers[0].work.tokens == askers[1].work.tokens
            )
            assert (Completions.calls > before) == (answer == "generation"), "options are compared here"
    row = ScoredRow({"task": "mine"}, bank, 1, 5, "sha")
    for answer, same in (("generation", False), ("likelihood", True)):
        mine = task(answer)
        keys = [Predictor(s, bank).key(mine.card, mine.splits["test"], row) for s in (local, served)]
        assert (keys[0] == keys[1]) == same


@pytest.mark.parametrize("fault", [(400, {}), (500, {}), (307, {"Location": "http://127.0.0.1:1/v1/completions"})])
def test_a_server_that_fails_ends_the_command_and_quotes_nothing(
    fault, address: str, make_holder, bank: JoinedBank, task, monkeypatch
) -> None:
    served = make_holder(**{"evaluate.server": address, "evaluate.server_model": "mine"})
    monkeypatch.setattr(Completions, "always", fault)
    with pytest.raises(RuntimeError, match=rf"evaluate.server: {address}: HTTP {fault[0]}; answers so far are kept"):
        Predictor(served, bank).answers(task("generation"), 0)
    served.context.config.evaluate.server_model = "absent"
    with pytest.raises(UserError, match="serves mine, other, not absent"):
        announce(served)
    served.context.config.evaluate.server = "http://127.0.0.1:1"
    with pytest.raises(UserError, match="does not answer as a vLLM server does"):
        announce(served)


def test_a_redirect_is_said_to_be_one(
    address: str, make_holder, bank: JoinedBank, task, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = make_holder(**{"evaluate.server": address, "evaluate.server_model": "mine"})
    redirect = 307, {"Location": "http://127.0.0.1:1/"}
    monkeypatch.setattr(Completions, "always", redirect)
    with pytest.raises(RuntimeError, match="HTTP 307; .*it redirects to another address, which is not followed"):
        Predictor(served, bank).answers(task("generation"), 0)
    monkeypatch.setattr(Completions, "do_GET", lambda self: self._send(307, {}, redirect[1]))
    with pytest.raises(UserError, match=r"as a vLLM server does \(HTTP 307\); it redirects to another address"):
        announce(served)
