"""The client that is exported beside prompts for vLLM: what it sends, and whom it asks."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backbones import load_backbone_card
from engine.checkpoints.bank_io import load_bank
from engine.evaluation.vllm import client
from engine.recipes.exporting.export import export_run
from tests.engine.exported_runs import ROOT, TASKS, write_run

pytestmark = pytest.mark.slow


class Server(BaseHTTPRequestHandler):
    """Stands for vLLM's completions: keeps what it is sent."""

    bodies: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        self.bodies.append({"path": self.path, **json.loads(self.rfile.read(int(self.headers["Content-Length"])))})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"text": " aspirin\n"}]}).encode())

    def log_message(self, *_: object) -> None:
        pass


def test_the_client_sends_what_the_backbone_would_see(models: Callable[[str], Any], tmp_path: Path) -> None:
    import base64
    import io

    run = write_run(tmp_path / "run", "llama", "distill")
    folders = export_run(run, "vllm", tmp_path / "out")
    assert [f.name for f in folders] == list(TASKS) and (tmp_path / "out/client.py").read_text() == Path(
        client.__file__
    ).read_text()
    _, tokenizer, backbone = models("llama")
    bank, _ = load_bank(run, "run")
    layout = json.loads((folders[1] / "layout.json").read_text())
    inner = type(
        "Tokenizer",
        (),
        {"bos_token_id": tokenizer.bos_id, "encode": lambda _, text, add_special_tokens: tokenizer.encode(text)},
    )()
    ids = client.context_ids(inner, layout, "the patient takes aspirin")
    from backbones import Layout

    card = load_backbone_card(ROOT / "backbones/pocket/llama.yaml")
    assert ids == Layout(card, tokenizer).context_ids("the patient takes aspirin")
    prompt_LD = load_file(folders[1] / "prompt.safetensors")["prompt_embeds"]
    body = client.request_body("m", prompt_LD, text_TD=client.Table(Path(card.path))(ids), max_tokens=8)
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert client.ask(f"http://127.0.0.1:{server.server_port}", body) == "aspirin"
    finally:
        server.shutdown()
    sent = Server.bodies[-1]
    embeds = torch.load(io.BytesIO(base64.b64decode(sent["prompt_embeds"])), weights_only=True)
    with torch.no_grad():
        wanted = torch.cat(
            [bank.prompts(torch.tensor([1]))[0], backbone.model.get_input_embeddings()(torch.tensor(ids))]
        )
    assert torch.equal(embeds, wanted.bfloat16())  # as the folder's own numbers, and the server, are
    assert sent["path"] == "/v1/completions" and sent["temperature"] == 0.0 and sent["max_tokens"] == 8


class Elsewhere(BaseHTTPRequestHandler):
    """Answers every request with a redirect, and counts them."""

    to = ""
    asked = 0

    def do_POST(self) -> None:
        type(self).asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.code)
        self.send_header("Location", self.to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST
    code = 307

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """``serve(Handler)``: the address of a server on this machine."""
    servers: list[HTTPServer] = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        servers.append(HTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_the_client_follows_no_redirect(code: int, serve: Callable[..., str]) -> None:
    target = serve(Server)
    first = type("First", (Elsewhere,), {"code": code, "to": f"{target}/v1/completions"})
    before = len(Server.bodies)
    with pytest.raises(SystemExit, match=f"--url: http.*: HTTP {code}: it redirects to another address, which is not"):
        client.ask(serve(first), {"prompt_embeds": "x"})
    assert first.asked == 1 and len(Server.bodies) == before


def test_the_client_uses_no_proxy_of_the_environment(serve: Callable[..., str], tmp_path: Path) -> None:
    proxy = type("Proxy", (Elsewhere,), {})
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY")
    env = {**os.environ, **{name: serve(proxy) for name in names}, "no_proxy": "", "NO_PROXY": ""}
    (tmp_path / "client.py").write_text(Path(client.__file__).read_text())
    script = f"import client; print(client.ask({serve(Server)!r}, {{'prompt_embeds': 'x'}}))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout == "aspirin\n" and proxy.asked == 0, done.stderr


def test_the_client_says_in_one_line_that_nobody_answers() -> None:
    with pytest.raises(SystemExit, match="--url: http://127.0.0.1:1: no server answers there"):
        client.ask("http://127.0.0.1:1", {})
