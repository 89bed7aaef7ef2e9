"""Exported prompts in stock PEFT: the same logits and answers as here, every row, both families; and what is
refused.
"""

import json
import os
import stat
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
from torch import Tensor
from transformers import AutoModelForCausalLM

from backbones import load_backbone_card, load_tokenizer
from backbones.loading.family_config import backbone_config
from engine.checkpoints import checkpoint
from engine.checkpoints.bank_io import load_bank
from engine.checkpoints.checkpoint import Checkpoint
from engine.config.loader import to_yaml
from engine.core.errors import UserError
from engine.distributed.zero3 import ShardedBackbone
from engine.evaluation.vllm import client
from engine.recipes.exporting.export import export_run
from engine.training.peft_teachers import read_adapters

ROOT = Path(__file__).parents[3]
LENGTH, RANK = 6, 2
TASKS = ("demo_qa", "demo_entities", "demo_summary")


def write_run(run_dir: Path, family: str, kind: str, spoil: float | None = None) -> Path:
    """A finished run on a pocket backbone with invented prompts. kind: distill, adapt (prompt tuning beside it),
    all (each row its own metaprompt), lora.
    """
    from engine.config.schema import RunConfig

    g = torch.Generator().manual_seed(3)
    card = load_backbone_card(ROOT / f"backbones/pocket/{family}.yaml")
    width = json.loads((Path(card.path) / "config.json").read_text())["hidden_size"]
    draw = lambda *shape: 0.3 * torch.randn(*shape, generator=g)  # noqa: E731
    rows = [{"task": t, "method": "metaprompt", "shots": "full", "seed": 0} for t in TASKS]
    k = len(rows)
    tensors = {
        "metaprompt.shared_SLD": draw(k if kind == "all" else 1, LENGTH, width),
        "metaprompt.cols_KLR": 1 + draw(k, LENGTH, RANK),
        "metaprompt.rows_KRD": 1 + draw(k, RANK, width),
    }
    if kind == "adapt":
        rows += [
            {"task": t, "method": "prompt_tuning", "shots": s, "seed": 1} for t in TASKS[:2] for s in ("16", "full")
        ]
        tensors["prompt_tuning.prompts_KLD"] = draw(4, LENGTH, width)
    if kind == "lora":
        rows = [{"task": t, "method": "lora", "shots": "full", "seed": 0} for t in TASKS[:2]]
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(backbone_config(card))
        linears = {
            n.replace(".", "-"): m
            for n, m in model.named_modules()
            if type(m) is torch.nn.Linear and m is not model.get_output_embeddings()
        }
        tensors = {"lora.prompts_KLD": torch.zeros(2, 0, width)}
        tensors |= {f"lora.down.{n}": draw(2, 3, m.in_features) for n, m in linears.items()}
        tensors |= {f"lora.up.{n}": draw(2, m.out_features, 3) for n, m in linears.items()}
    if spoil is not None:
        tensors["metaprompt.rows_KRD"][1, 0, 0] = spoil
    config = RunConfig(run_dir=str(run_dir), backbone=str(ROOT / f"backbones/pocket/{family}.yaml"))
    config.prompt.num_virtual_tokens, config.data.root, config.data.cards = (
        LENGTH,
        str(ROOT / "configs/demo/data"),
        [str(ROOT / "configs/demo/cards")],
    )
    config.distill.sources = list(TASKS)
    run_dir.mkdir()
    hashes = {"backbone": "b" * 8, "layout": "c" * 8, "data": "d" * 8}
    state = {"stage": "distill" if kind == "distill" else "adapt", "rows": rows, "hashes": hashes, "changes": []}
    checkpoint.save(
        run_dir,
        5,
        Checkpoint({}, {"m": torch.zeros(1)}, state, {"best": {f"best.parts.{n}": t for n, t in tensors.items()}}),
        2,
    )
    (run_dir / "config.yaml").write_text(to_yaml(config))
    (run_dir / "COMPLETED").touch()
    return run_dir


@pytest.fixture(scope="module")
def models() -> Callable[[str], tuple[Any, Any, ShardedBackbone]]:
    """Family -> transformers' model from the folder, the tokenizer, and our backbone."""
    from transformers import AutoModelForCausalLM

    made: dict[str, Any] = {}

    def make(family: str) -> tuple[Any, Any, ShardedBackbone]:
        if family not in made:
            card = load_backbone_card(ROOT / f"backbones/pocket/{family}.yaml")
            model = AutoModelForCausalLM.from_pretrained(card.path, dtype=torch.float32)
            made[family] = model, load_tokenizer(card.tokenizer), ShardedBackbone(card, "", torch.device("cpu"))
        return made[family]

    return make


def ours(
    backbone: ShardedBackbone, contexts: list[list[int]], prompt_LD: Tensor, tokenizer: Any
) -> tuple[Tensor, list[list[int]]]:
    """Logits of the first context, and greedy continuations of all."""
    with torch.no_grad():
        embeds = torch.cat([prompt_LD, backbone.model.get_input_embeddings()(torch.tensor(contexts[0]))])[None]
        logits = backbone.model(inputs_embeds=embeds, use_cache=False).logits[0, len(prompt_LD) :]
    prompts = prompt_LD.expand(len(contexts), -1, -1)
    ids = backbone.generate(contexts, prompts, 8, tokenizer.eos_id, tokenizer.eos_id, False).tolist()
    return logits, [cut(row, tokenizer.eos_id) for row in ids]


def cut(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def theirs(
    model: Any, contexts: list[list[int]], tokenizer: Any, length: int = LENGTH, **task: Tensor
) -> tuple[Tensor, list[list[int]]]:
    answers = []
    with torch.no_grad():
        first = torch.tensor([contexts[0]])
        logits = model(input_ids=first, attention_mask=torch.ones_like(first), use_cache=False, **task).logits[
            0, length:
        ]
        for context in contexts:
            ids = torch.tensor([context])
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                eos_token_id=tokenizer.eos_id,
                pad_token_id=tokenizer.eos_id,
                **task,
            )
            answers.append(cut(out[0, len(context) :].tolist(), tokenizer.eos_id))
    return logits, answers


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
@pytest.mark.parametrize(
    ("kind", "fmt"),
    [
        ("distill", "peft"),
        ("adapt", "peft"),
        ("all", "peft"),
        ("adapt", "peft_collapsed"),
        ("lora", "peft"),
        ("lora", "peft_collapsed"),
    ],
)
def test_stock_peft_computes_the_same(
    family: str, kind: str, fmt: str, models: Callable[[str], Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    run = write_run(tmp_path / "run", family, kind)
    folders = export_run(run, fmt, tmp_path / "out")
    bank, found = load_bank(run, "run")
    base, tokenizer, backbone = models(family)
    contexts = [
        [tokenizer.bos_id, *tokenizer.encode(text)]
        for text in ("the patient takes aspirin", "no fever . cough since two days")
    ]
    seen = []
    for folder in folders:
        model = PeftModel.from_pretrained(base, folder).eval()
        kind_of_adapter = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
        for number, row in enumerate(json.loads((folder / "rows.json").read_text())):
            k = found.state["rows"].index(row)
            seen.append(k)
            with torch.no_grad():
                prompt_LD = bank.prompts(torch.tensor([k]))[0]
            task = {"task_ids": torch.tensor([number])} if kind_of_adapter == "MULTITASK_PROMPT_TUNING" else {}
            with backbone.updated(bank.updates([k], [0])):
                wanted = ours(backbone, contexts, prompt_LD, tokenizer)
            found_here = theirs(model, contexts, tokenizer, len(prompt_LD), **task)
            assert (wanted[0] - found_here[0]).abs().max() <= 1e-5
            assert wanted[1] == found_here[1]
        if kind_of_adapter == "LORA":  # it stands in the model's own layers
            model.unload()
    assert sorted(seen) == list(range(len(found.state["rows"])))
    assert len(
        {next(iter(load_file(f / "adapter_model.safetensors").values())).numpy().tobytes() for f in folders}
    ) == len(folders)


def test_lora_is_no_prompt_for_vllm(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--format: demo_qa: LoRA is no prompt; vLLM serves it as a PEFT adapter \(peft\)"
    ):
        export_run(write_run(tmp_path / "run", "llama", "lora"), "vllm", tmp_path / "out")


def test_what_lies_in_an_exported_folder(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "llama", "adapt")
    export_run(run, "peft", tmp_path / "out", ["demo_qa", "demo_entities"])
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    rows = [
        *(f"demo_{task}.prompt_tuning.{shots}.1" for task in ("entities", "qa") for shots in ("16", "full")),
        "metaprompt",
    ]
    assert found == [
        f"{row}/{name}"
        for row in rows
        for name in ("README.md", "adapter_config.json", "adapter_model.safetensors", "layout.json", "rows.json")
    ]
    tensors = load_file(tmp_path / "out/metaprompt/adapter_model.safetensors")
    assert {n: list(t.shape[:2]) for n, t in tensors.items()} == {
        "prompt_embeddings": [LENGTH, tensors["prompt_embeddings"].shape[1]],
        "prefix_task_cols": [2, LENGTH],
        "prefix_task_rows": [2, RANK],
    }
    card = (tmp_path / "out/metaprompt/README.md").read_text()
    assert (
        "| 1 | demo_entities | metaprompt | full | 0 |" in card
        and "pocket-llama" in card
        and "Not evaluated." in card
        and "Limits" in card
    )
    everything = "".join((tmp_path / "out" / f).read_text() for f in found if not f.endswith("safetensors"))
    assert str(tmp_path) not in everything and str(ROOT) not in everything  # no path of this machine
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert modes == {0o600} and stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700


def test_scores_stand_in_the_card_only_if_they_are_this_checkpoints(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "llama", "distill")
    _, found = load_bank(run, "run")
    cell = {"mean": 0.625, "seeds": [0]}
    results = {
        "checkpoint": found.identity,
        "tasks": {"demo_qa": {"metric": "accuracy", "n_test": 8, "methods": {"metaprompt": {"full": cell}}}},
    }
    for identity, wanted in ((found.identity, "0.625"), ("another", "Not evaluated since it was last trained.")):
        (run / "results.json").write_text(json.dumps({**results, "checkpoint": identity}))
        export_run(run, "peft", tmp_path / identity)
        assert wanted in (tmp_path / identity / "metaprompt/README.md").read_text()


@pytest.mark.parametrize(("spoil", "wanted"), [(float("nan"), "is not finite"), (float("inf"), "is not finite")])
def test_a_prompt_that_is_no_prompt_is_not_written(spoil: float, wanted: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "llama", "distill", spoil)
    with pytest.raises(UserError, match=wanted):
        export_run(run, "peft", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_empty_tensor_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.recipes.exporting import export

    run = write_run(tmp_path / "run", "llama", "distill")
    whole = export._factored
    monkeypatch.setattr(
        export,
        "_factored",
        lambda *a: [
            export.Adapter(x.name, x.rows, {n: t[:0] for n, t in x.tensors.items()}, x.config) for x in whole(*a)
        ],
    )
    with pytest.raises(UserError, match=r"prompt_embeddings is empty \[0, \d+\]; nothing is written"):
        export_run(run, "peft", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_wrong_command_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UserError) as error:
        export_run(tmp_path / "gone", "onnx", tmp_path / "full")
    assert [p.split(":")[0] for p in error.value.problems] == ["--format", "--output", "--run"]
    run = write_run(tmp_path / "run", "llama", "distill")
    with pytest.raises(UserError, match="'demo_q' is not in"):
        export_run(run, "peft", tmp_path / "out", ["demo_q"])


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
    body = client.request_body("m", prompt_LD, client.Table(Path(card.path))(ids), 8)
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


# ---- adapters as teachers
# -----------------------------------------------------------------------------------------------------------


def test_exported_prompts_come_back_as_teachers(
    make_run_context: Callable[..., Any], make_loop: Callable[..., Any], tasks: Any, tmp_path: Path
) -> None:
    """Collapsed prompts of an earlier run are the new run's teachers, to the bit, and no step is taken."""
    from engine.training.teach_and_distill import teach_stage

    hidden, sources = 64, ("alpha", "beta", "gamma")
    g = torch.Generator().manual_seed(0)
    for task in sources:
        (tmp_path / "adapters" / task).mkdir(parents=True)
        peft_folder(tmp_path / "adapters" / task, torch.randn(5, hidden, generator=g))
    run_context = make_run_context(**{"teach.adapters": str(tmp_path / "adapters"), "teach.eval_interval": 2})
    assert run_context.model_config.hidden_size == hidden
    stage = teach_stage(run_context, tasks)
    make_loop(stage, run_context).run()
    bank, found = load_bank_of(stage.run_dir)
    for k, task in enumerate(sources):
        imported = load_file(tmp_path / "adapters" / task / "adapter_model.safetensors")["prompt_embeddings"]
        assert torch.equal(bank.prompts(torch.tensor([k]))[0].float(), imported)
    assert found.state["step"] == 0 and found.state["hashes"]["adapters"]
    other = make_run_context(**{"teach.adapters": str(tmp_path / "adapters"), "teach.eval_interval": 2})
    peft_folder(tmp_path / "adapters/beta", torch.randn(5, hidden, generator=g))
    with pytest.raises(UserError, match="adapters: the checkpoint has"):
        make_loop(teach_stage(other, tasks), other).run()


def load_bank_of(folder: Path) -> Any:
    (folder / "COMPLETED").touch()
    return load_bank(folder, "teachers")


def peft_folder(folder: Path, prompt_LD: Tensor, kind: str = "PROMPT_TUNING", **further: Tensor) -> None:
    from safetensors.torch import save_file

    save_file({"prompt_embeddings": prompt_LD.contiguous(), **further}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))


def test_a_factored_adapter_of_one_task_is_multiplied_out(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    shared, cols, rows = (
        torch.randn(5, 8, generator=g),
        torch.randn(1, 5, 2, generator=g),
        torch.randn(1, 2, 8, generator=g),
    )
    (tmp_path / "a").mkdir()
    peft_folder(tmp_path / "a", shared, "MULTITASK_PROMPT_TUNING", prefix_task_cols=cols, prefix_task_rows=rows)
    prompts, _ = read_adapters(tmp_path, ["a"], 5, 8)
    assert torch.equal(prompts[0], shared * (cols[0] @ rows[0]))


def test_all_that_is_wrong_with_adapters_is_said_at_once(tmp_path: Path) -> None:
    for name in ("pickled", "lora", "wide", "nan", "torn", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "pickled/adapter_model.bin").touch()
    peft_folder(tmp_path / "lora", torch.zeros(5, 8), "LORA")
    peft_folder(tmp_path / "wide", torch.zeros(5, 9))
    peft_folder(tmp_path / "nan", torch.full((5, 8), float("nan")))
    peft_folder(
        tmp_path / "two",
        torch.zeros(5, 8),
        "MULTITASK_PROMPT_TUNING",
        prefix_task_cols=torch.zeros(2, 5, 1),
        prefix_task_rows=torch.zeros(2, 1, 8),
    )
    peft_folder(tmp_path / "torn", torch.zeros(5, 8))
    (tmp_path / "torn/adapter_model.safetensors").write_bytes(b"1234")
    with pytest.raises(UserError) as error:
        read_adapters(tmp_path, ["pickled", "lora", "wide", "nan", "torn", "two", "gone"], 5, 8)
    wrong = "is [5, 9]; this run's prompts are [5, 8]"
    wanted = [
        "unpickling runs code",
        "is a LORA adapter",
        wrong,
        "not finite",
        "cannot be read",
        "holds 2 tasks",
        "missing",
    ]
    assert len(error.value.problems) == 7 and all(w in p for w, p in zip(wanted, error.value.problems, strict=True))
