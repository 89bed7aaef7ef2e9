"""Ask a vLLM server with an exported soft prompt in front of a text. Needs torch, safetensors and transformers, nothing
of this project.

    vllm serve MODEL --enable-prompt-embeds
    python client.py --model MODEL --prompt TASK --input note.txt [--url http://localhost:8000] [--max_tokens 256]

MODEL is the folder of the backbone's weights: the rows of its embedding table that a text needs are read from there.
The server gets embeddings, and no text; what it answers is printed. ``--input -`` reads standard input. Embeddings can
be turned back into the text: they go to the address of ``--url`` and no other. Proxies are not used and redirects are
refused.
"""

import argparse
import base64
import io
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

TABLES = ("model.embed_tokens.weight", "embed_tokens.weight", "transformer.wte.weight")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: the answer that redirects is an error."""


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)


class Table:
    """The embedding table of a folder of safetensors; a row is read when it is asked for."""

    def __init__(self, folder: Path):
        index = folder / "model.safetensors.index.json"
        files = dict.fromkeys(TABLES, "model.safetensors")
        if index.exists():
            files = json.loads(index.read_text())["weight_map"]
        for name in TABLES:
            file = folder / files.get(name, "")
            if file.is_file():
                self.slices = safe_open(file, "pt")
                if name in self.slices.keys():  # noqa: SIM118  no dictionary
                    self.rows = self.slices.get_slice(name)
                    return
        raise SystemExit(f"--model: {folder}: its safetensors files have none of {', '.join(TABLES)}")

    def __call__(self, ids: list[int]) -> Tensor:
        return torch.stack([self.rows[i] for i in ids])


def context_ids(tokenizer: Any, layout: dict[str, str], text: str) -> list[int]:
    """The tokens between soft prompt and answer, as in training."""
    if layout["template"] == "chat":
        turns = [{"role": "user", "content": text}]
        return list(
            tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False, date_string="26 Jul 2024"
            )
        )
    encode = lambda part: tokenizer.encode(part, add_special_tokens=False)  # noqa: E731
    if layout["template"] == "harmony":
        start, message, end, channel = tokenizer.convert_tokens_to_ids(
            ["<|start|>", "<|message|>", "<|end|>", "<|channel|>"]
        )
        user = [start, *encode("user"), message, *encode(text), end]
        return [*user, start, *encode("assistant"), channel, *encode("final"), message]
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*bos, *encode(text + layout["separator"])]


def request_body(model: str, prompt_LD: Tensor, text_TD: Tensor, max_tokens: int) -> dict[str, Any]:
    """Of /v1/completions: prompt and text as embeddings in the model's dtype."""
    buffer = io.BytesIO()
    torch.save(torch.cat([prompt_LD.to(text_TD.dtype), text_TD]).contiguous(), buffer)
    return {
        "model": model,
        "prompt_embeds": base64.b64encode(buffer.getvalue()).decode(),
        "max_tokens": max_tokens,
        "temperature": 0.0,
    }


def ask(url: str, body: dict[str, Any]) -> str:
    """The server's answer.

    Raises:
        SystemExit: no answer, or a redirect.
    """
    request = urllib.request.Request(
        f"{url.rstrip('/')}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with OPENER.open(request) as answer:
            return str(json.loads(answer.read())["choices"][0]["text"]).strip()
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            why = "it redirects to another address, which is not followed: embeddings would go there"
            raise SystemExit(f"--url: {url}: HTTP {error.code}: {why}; name that address") from None
        raise SystemExit(f"--url: {url}: HTTP {error.code}") from None
    except urllib.error.URLError as error:
        raise SystemExit(f"--url: {url}: no server answers there ({error.reason})") from None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompt", type=Path, required=True, help="an exported task's folder")
    parser.add_argument("--input", required=True, help="a text as the task's card makes it of a note")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--served_as", default="", help="the model's name on the server; default: MODEL")
    parser.add_argument("--max_tokens", type=int, default=256)
    a = parser.parse_args()
    from transformers import AutoTokenizer

    layout = json.loads((a.prompt / "layout.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(a.model, local_files_only=True)
    text = sys.stdin.read() if a.input == "-" else Path(a.input).read_text()
    with safe_open(a.prompt / "prompt.safetensors", "pt") as file:
        prompt_LD = file.get_tensor("prompt_embeds")
    text_TD = Table(a.model)(context_ids(tokenizer, layout, text))
    print(ask(a.url, request_body(a.served_as or str(a.model), prompt_LD, text_TD, a.max_tokens)))


if __name__ == "__main__":
    main()
