"""The pre-training script of the pocket backbones, on models that are trained in seconds."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from backbones import BackboneCard, Layout, build_backbone, load_tokenizer
from clinical_tasks.pocket import BUILDS_ON, DRILLS, SOURCES, TARGETS, TASKS, instruction_pairs, lessons
from tests.processes.fork_server import python
from tools.pocket_backbones import gate
from tools.pocket_backbones.gate import verdict
from tools.pocket_backbones.model import build, look_back, train_tokenizer, upcycle
from tools.pocket_backbones.muon import Muon, orthogonalised
from tools.pocket_backbones.pretrain import LM_WEIGHT, optimizers, train_step
from tools.pocket_backbones.samples import EARLY_SHARE, MASTERED_SHARE, READY, SEPARATOR, Samples

SIZES = {"batch": 6, "hidden": 32, "layers": 1, "every": 2, "threads": 1}


def pretrain(project: Path, output: Path, family: str, steps: int, **more: object) -> str:
    flags = {"family": family, "output": output, "steps": steps, **SIZES, **more}
    command = [*python(), "-m", "tools.pocket_backbones.pretrain", *(f"--{n}={v}" for n, v in flags.items())]
    done = subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    folder = tmp_path_factory.mktemp("tokenizer")
    path = train_tokenizer((f"{i}\n{t}\n{a}" for _, i, t, a in instruction_pairs(3, 3000)), folder)
    card = BackboneCard(
        name="mine", random={"model_type": "llama"}, tokenizer=str(path), separator=SEPARATOR, instruction_first=True
    )
    return Layout(card, load_tokenizer(path))


def test_a_word_is_a_token_and_any_text_comes_back(layout: Layout) -> None:
    tokens = words = 0
    for _, instruction, text, answer in instruction_pairs(8_000_000, 300):
        for part in (instruction, text, answer):
            assert layout.tokenizer.decode(layout.tokenizer.encode(part)) == part
            tokens += len(layout.tokenizer.encode(part))
            words += len(part.split()) + part.count("\n")
    assert tokens <= 1.01 * words
    for strange in ("  Überdosis:\tABX 3.7 mg\n\n b \u4e2d\U0001f600 ", "\n", " \n \n", "", "a\n\n"):
        assert layout.tokenizer.decode(layout.tokenizer.encode(strange)) == strange
    assert b"tmp" not in layout.tokenizer.path.read_bytes()  # type: ignore[attr-defined]


def test_a_word_is_the_same_token_wherever_it_stands(layout: Layout) -> None:
    encode = layout.tokenizer.encode
    (word,) = encode("aspirin")
    assert encode("takes aspirin")[-1] == encode("x\naspirin")[-1] == layout.answer_ids("aspirin")[0] == word


def test_a_step_has_the_same_samples_however_it_is_cut(layout: Layout) -> None:
    whole, cut = Samples(0, size=12, packets=1, layout=layout), Samples(0, size=12, packets=3, layout=layout)
    (packet,) = whole[5]
    rows = sorted(
        tuple(r[: int(((a + o) > 0).nonzero().max()) + 1].tolist())
        for r, a, o in zip(packet.ids, packet.answer, packet.rest, strict=True)
    )
    parts = cut[5]
    others = [
        r[: int(((a + o) > 0).nonzero().max()) + 1].tolist()
        for p in parts
        for r, a, o in zip(p.ids, p.answer, p.rest, strict=True)
    ]
    assert sorted(map(tuple, others)) == rows and len(rows) == 12
    assert sum(p.ids.numel() for p in parts) < packet.ids.numel()
    assert not whole[6][0].ids.equal(packet.ids) and whole[5][0].ids.equal(packet.ids)
    cut.exact["drill_words"] = 1.0  # a mastered task is drawn less often
    drilled = cut.tasks.index("drill_words")
    assert (
        torch.cat([p.tasks for p in cut[5]]).eq(drilled).sum() < torch.cat([p.tasks for p in parts]).eq(drilled).sum()
    )
    assert (packet.number < len(packet.tasks)).equal(packet.answer > 0) and not (
        (packet.answer > 0) & (packet.rest > 0)
    ).any()
    for number in range(len(packet.tasks)):
        row, token = (packet.number == number).nonzero(as_tuple=True)
        n = len(token)
        assert n > 1 and len(set(row.tolist())) == 1 and token.equal(torch.arange(token[0], token[0] + n))
        assert packet.ids[row[-1], token[-1]] == layout.end_id
        torch.testing.assert_close(packet.answer[row, token].sum(), torch.tensor(n**0.5))


def test_what_builds_on_others_waits_for_them(layout: Layout) -> None:
    samples = Samples(0, size=12, packets=1, layout=layout)
    shares = dict(zip(samples.tasks, samples.shares(), strict=True))
    assert set(samples.tasks) - set(BUILDS_ON) == set(DRILLS) and {
        other for needed in BUILDS_ON.values() for other in needed
    } <= set(DRILLS)
    assert shares == {task: EARLY_SHARE if task in BUILDS_ON else 1.0 for task in samples.tasks}
    samples.exact |= {"drill_letters": 0.97, "drill_mentions": READY - 0.01, "pocket_headqa": 0.3}
    assert dict(zip(samples.tasks, samples.shares(), strict=True))["pocket_headqa"] == EARLY_SHARE
    samples.exact["drill_mentions"] = READY
    shares = dict(zip(samples.tasks, samples.shares(), strict=True))
    assert shares["pocket_headqa"] == 0.7 and shares["pocket_medqa"] == 1.0
    assert shares["drill_letters"] == MASTERED_SHARE and shares["drill_mentions"] == pytest.approx(1 - READY)


def test_a_lesson_asks_about_one_note_as_often_as_it_says(layout: Layout) -> None:
    """Tokens of a lesson of several questions are those of its texts, in order; each answer is what the task alone
    would ask for.
    """
    samples = Samples(0, size=1, packets=1, layout=layout)
    lesson = next(lesson for lesson in lessons(4, None, ("pocket_medqa",)) if len(lesson.turns) == 4)
    task, spans = samples._row(lesson)
    assert samples.tasks[task] == "pocket_medqa" and len(spans) == 8
    assert spans[0] == layout.instructed_ids(lesson.instruction, lesson.turns[0][0])
    said = [layout.tokenizer.decode([i for i in span if i != layout.end_id]) for span in spans[2:]]
    assert said == [part for text, answer in lesson.turns[1:] for part in (text + SEPARATOR, answer)]


def test_the_loss_is_the_plain_formula_and_packets_do_not_change_it(layout: Layout) -> None:
    torch.manual_seed(0)
    model = build("llama", 32, 1, layout.tokenizer.vocab_size).double()
    gradients = []
    for packets in (1, 4):
        samples = Samples(1, size=8, packets=packets, layout=layout)
        model.zero_grad()
        loss, tasks, right = train_step(model, samples[0], torch.device("cpu"))
        gradients.append([p.grad.clone() for p in model.parameters()])  # type: ignore[union-attr]
        assert len(tasks) == len(right) >= 8
    (packet,) = Samples(1, size=8, packets=1, layout=layout)[0]
    ce = F.cross_entropy(
        model(input_ids=packet.ids).logits[:, :-1].flatten(0, 1), packet.ids[:, 1:].flatten(), reduction="none"
    ).view(8, -1)
    answer, rest = packet.answer[:, 1:].double(), packet.rest[:, 1:].double()
    expected = (ce * answer).sum() / answer.sum()
    model.zero_grad()
    (expected + LM_WEIGHT * (ce * rest).sum() / rest.sum()).backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for plain, one, four in zip([p.grad for p in model.parameters()], *gradients, strict=True):
        torch.testing.assert_close(one, plain, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(four, plain, rtol=1e-5, atol=1e-8)


def test_right_answers_are_seen(layout: Layout) -> None:
    packets = Samples(2, size=6, packets=2, layout=layout)[0]
    wrong = (packets[0].number == 0).nonzero()[0]  # the first token of the first answer

    class Knows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = torch.nn.Parameter(torch.zeros(()))

        def forward(self, input_ids: torch.Tensor, use_cache: bool):
            logits = F.one_hot(input_ids.roll(-1, 1), layout.tokenizer.vocab_size).float() + self.zero
            if input_ids.equal(packets[0].ids):
                logits[wrong[0], wrong[1] - 1] = logits[wrong[0], wrong[1] - 1].roll(1)
            return type("Output", (), {"logits": logits})

    _, tasks, right = train_step(Knows(), packets, torch.device("cpu"))
    assert right.tolist() == [False, *[True] * (len(tasks) - 1)] and tasks.equal(torch.cat([p.tasks for p in packets]))


def test_a_gpt_oss_starts_as_the_llama_it_comes_from() -> None:
    torch.manual_seed(0)
    llama, mixture = build("llama", 64, 3, 320), build("gpt_oss", 64, 3, 320)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.mul_(3)  # far from linear
        upcycle(llama, mixture)
        ids = torch.randint(0, 320, (3, 40))
        wanted, found = (m(input_ids=ids).logits for m in (llama, mixture))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.1


def test_some_heads_look_back_from_the_start() -> None:
    """Layer 0 reads the word before; later layers find a word's other occurrence, and what followed it."""
    torch.manual_seed(0)
    model = build("llama", 192, 3, 320)
    model.set_attn_implementation("eager")  # type: ignore[operator]
    ids = torch.randperm(320)[:60]
    ids[50] = ids[33]

    def attention() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return tuple(a[0] for a in model(input_ids=ids[None], output_attentions=True).attentions)

    assert max(attention()[0][0, t, t - 1] for t in range(1, 60)) < 0.6  # from a random start no head does
    look_back(model)
    before, *later = attention()
    assert min(before[0, t, t - 1] for t in range(1, 60)) > 0.45 and before[0].diagonal(-1).mean() > 0.85
    for heads in later:  # key groups 1 and 2, two queries each; of other words none is looked at half as much
        for head in (2, 3):
            others = heads[head, 50, [t for t in range(50) if t != 33]]
            assert heads[head, 50, 33] > 2 * others.max() and heads[head, 50, 33] > 0.1
        for head in (4, 5):
            others = heads[head, 50, [t for t in range(51) if t != 34]]
            assert heads[head, 50, 34] > 2 * others.max() and heads[head, 50, 34] > 0.3


@pytest.mark.parametrize("hidden", [32, 96, 256])
def test_any_size_can_look_back(hidden: int) -> None:
    model = build("llama", hidden, 2, 320)
    look_back(model)
    with torch.no_grad():
        assert model(input_ids=torch.arange(12)[None]).logits.isfinite().all()


def test_muon_moves_by_orthogonal_matrices() -> None:
    torch.manual_seed(0)
    # singular values within a factor of five, as five iterations promise
    u, _, v = torch.linalg.svd(torch.randn(5, 24, 48), full_matrices=False)
    drawn = u @ torch.diag_embed(torch.linspace(0.2, 1.0, 24).expand(5, -1)) @ v
    for matrices in (drawn, drawn.mT):
        found = torch.linalg.svdvals(orthogonalised(matrices))
        assert found.min() > 0.6 and found.max() < 1.3
        # the directions stay: against the exact polar factor
        a, _, b = torch.linalg.svd(matrices, full_matrices=False)
        assert F.cosine_similarity(orthogonalised(matrices).flatten(1), (a @ b).flatten(1)).min() > 0.97
    flat, stack = (torch.nn.Parameter(torch.zeros(s)) for s in ((24, 48), (3, 24, 48)))
    flat.grad, stack.grad = drawn[0].clone(), drawn[:3].clone()
    Muon([flat, stack], lr=0.5).step()
    torch.testing.assert_close(flat, stack[0])
    torch.testing.assert_close(stack, -0.5 * orthogonalised(drawn[:3] * (0.05 + 0.95 * 0.05)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_every_parameter_has_one_optimizer(family: str) -> None:
    model = build(family, 32, 2, 128)
    muon, adam = optimizers(model, 1.0)
    held = [id(p) for o in (muon, adam) for g in o.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(
        ".layers." in names[id(p)] and p.ndim > 1 and "router" not in names[id(p)]
        for p in muon.param_groups[0]["params"]
    )
    assert sum(p.numel() for p in muon.param_groups[0]["params"]) > 0.3 * sum(p.numel() for p in model.parameters())


def test_what_it_writes_loads_and_a_killed_one_goes_on(project: Path, tmp_path: Path) -> None:
    pretrain(project, tmp_path / "a", "llama", 6)
    folder = {"config.json", "generation_config.json", "loss.jsonl", "model.safetensors", "tokenizer.model"}
    assert {p.name for p in (tmp_path / "a").iterdir()} == folder
    lines = [json.loads(line) for line in (tmp_path / "a/loss.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6] and all(
        0 <= v <= 1 for line in lines for v in line["exact"].values()
    )
    card = BackboneCard(
        name="a",
        path=str(tmp_path / "a"),
        tokenizer=str(tmp_path / "a/tokenizer.model"),
        separator=SEPARATOR,
        dtype="float32",
    )
    assert sum(p.numel() for p in build_backbone(card, None).parameters()) > 30_000

    # stopped after its second checkpoint, then started again
    flags = {"family": "llama", "output": tmp_path / "b", "steps": 6, **SIZES}
    command = [*python(), "-m", "tools.pocket_backbones.pretrain", *(f"--{n}={v}" for n, v in flags.items())]
    running = subprocess.Popen(command, cwd=project, env=os.environ, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if '"step": 2' in line:
            break
    running.kill()
    running.wait()
    running.stdout.close()
    assert "from step" in pretrain(project, tmp_path / "b", "llama", 6) and not (tmp_path / "b/training.pt").exists()
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()

    assert "gpt_oss" in pretrain(
        project, tmp_path / "c", "gpt_oss", 2, **{"from": tmp_path / "a", "hidden": 64, "layers": 3}
    )  # the source's sizes hold
    card = BackboneCard(
        name="c",
        path=str(tmp_path / "c"),
        tokenizer=str(tmp_path / "c/tokenizer.model"),
        separator=SEPARATOR,
        dtype="float32",
    )
    config = build_backbone(card, None).config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == ("gpt_oss", 32, 1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--hidden=100"], "--hidden: 100 must be a multiple of 32"),
        (["--from=gone"], "--from: gone is not a finished folder"),
    ],
)
def test_what_cannot_be_trained_is_refused(project: Path, tmp_path: Path, flags: list[str], said: str) -> None:
    command = [
        *python(),
        "-m",
        "tools.pocket_backbones.pretrain",
        "--family=llama",
        f"--output={tmp_path / 'x'}",
        *flags,
    ]
    done = subprocess.run(command, cwd=project, env=os.environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2 and said in done.stderr and not (tmp_path / "x").exists()


def test_fewer_samples_than_packets(layout: Layout) -> None:
    assert [len(p.ids) for p in Samples(0, size=2, packets=3, layout=layout)[0]] == [1, 1]


def test_the_gate() -> None:
    assert not verdict(dict.fromkeys(TASKS, 0.79))["passed"]
    scores = dict.fromkeys(TASKS, 0.0) | dict.fromkeys(SOURCES[:18], 0.8) | dict.fromkeys(TARGETS[:8], 0.8)
    assert verdict(scores) == {"sources": 18, "targets": 8, "passed": True}
    for short in (SOURCES[0], TARGETS[0]):
        assert not verdict(scores | {short: 0.7})["passed"]


@pytest.mark.parametrize(("score", "code"), [(0.9, 0), (0.7, 1)])
def test_the_gate_keeps_the_scores_and_says_whether_it_is_passed(
    score: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, output = dict.fromkeys(TASKS, score), tmp_path / "scores.json"
    monkeypatch.setattr(gate, "protect", lambda: None)
    monkeypatch.setattr(gate, "score_instructions", lambda *asked: scores)
    monkeypatch.setattr("sys.argv", ["gate", "--backbone=b.yaml", "--data=data", f"--output={output}"])
    with pytest.raises(SystemExit) as ended:
        gate.main()
    assert ended.value.code == code
    assert json.loads(output.read_text()) == {**verdict(scores), "scores": scores}
    assert ("21 of 21 sources" in capsys.readouterr().out) == (code == 0)
