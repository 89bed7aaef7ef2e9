"""Real DeepSpeed ZeRO-3 with CPU offload on gloo ranks, against plain torch."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import distributed_jobs as jobs
import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def cpu(tmp_path_factory, project):
    return str(project / "ds_configs" / "cpu.json")


def relative(found, expected):
    return {n: np.linalg.norm(found[n] - expected[n]) / np.linalg.norm(expected[n]) for n in expected}


def plain_gradients(family, budget, dtype="float32", packed=False, mixed=False):
    """One process, no DeepSpeed, no process group, and unless asked for no packed rows."""
    backbone = jobs.ShardedBackbone(jobs.card_of(family, dtype), "", torch.device("cpu"))
    trainer = jobs.Trainer(
        jobs.mixed_stage_of(backbone) if mixed else jobs.stage_of(32, Path("unused")),
        backbone,
        jobs.settings_of(budget, packed),
    )
    trainer.gradients(0)
    return {n: p.grad.numpy().copy() for n, p in trainer.stage.bank.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", ["llama", "llama_tied", "gpt_oss", "mxfp4"])
def test_gradients_equal_plain_torch_and_shards_are_real(two, cpu, family, packed):
    out = two.run("gradients", family=family, deepspeed=cpu, budget=80, packed=packed)
    expected = plain_gradients(family, 10_000)
    for rank in out:
        errors = relative(rank["grads"], expected)
        assert max(errors.values()) <= 1e-5, errors
        assert rank["gathers"] > 0 and rank["gather_bytes"] > 0
        share = rank["resident_before"] / rank["whole"]
        print(
            f"{family}: {rank['gathers']} gathers, {rank['gather_bytes']} bytes received in a step, {share:.3f} "
            "of the backbone resident"
        )
        assert 0.5 <= share < 0.52
        assert rank["resident_after"] == rank["resident_before"], "something stayed gathered after the step"
        assert rank["unchanged"]
    for n in expected:
        np.testing.assert_array_equal(out[0]["grads"][n], out[1]["grads"][n])


def test_a_process_holds_two_backbones_with_secondary_shards(two, cpu, tmp_path):
    content = json.loads(Path(cpu).read_text())
    content["zero_optimization"]["zero_hpz_partition_size"] = 2
    (tmp_path / "hpz.json").write_text(json.dumps(content))
    first, second = (
        two.run("gradients", family="llama", deepspeed=str(tmp_path / "hpz.json"), budget=80) for _ in range(2)
    )
    expected = plain_gradients("llama", 10_000)
    for rank in first + second:
        assert max(relative(rank["grads"], expected).values()) <= 1e-5 and rank["unchanged"]


@pytest.mark.parametrize(("packed", "recompute"), [(True, 0), (True, 3), (False, 0)])
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_lora_beside_prompts_trains_through_shards(two, cpu, family, packed, recompute):
    out = two.run("gradients", family=family, deepspeed=cpu, budget=60, packed=packed, recompute=recompute, mixed=True)
    expected = plain_gradients(family, 10_000, mixed=True)
    assert any(".down." in n for n in expected) and any(".up." in n for n in expected)
    for rank in out:
        errors = relative(rank["grads"], expected)
        assert max(errors.values()) <= 2e-5, errors
        assert rank["unchanged"] and rank["resident_after"] == rank["resident_before"], (
            "something stayed gathered after the step"
        )
    for n in expected:
        np.testing.assert_array_equal(out[0]["grads"][n], out[1]["grads"][n])


def test_packed_experts_take_a_third_of_the_memory_and_of_the_traffic(two, cpu):
    """The whole backbone, attention, head and embedding counted, which stay bf16."""
    wide, packed = (
        two.run("gradients", family=f, deepspeed=cpu, budget=80, dtype="bfloat16")[0]
        for f in ("scaled", "scaled_mxfp4")
    )
    held, received = (packed[k] / wide[k] for k in ("resident_before", "gather_bytes"))
    print(f"MXFP4 against bf16: {held:.3f} of the bytes held, {received:.3f} of the bytes received")
    assert held <= 0.34 and received <= 0.34
    assert packed["unchanged"] and packed["resident_after"] == packed["resident_before"]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "mxfp4"])
def test_the_module_trace_stays_complete_so_that_weights_are_prefetched(two, cpu, family, packed):
    """Teacher and student are one root forward: two would alternate, and DeepSpeed would give its trace up at each."""
    for rank in two.run("trace", family=family, deepspeed=cpu, budget=60, packed=packed, steps=3):
        assert rank["micro_batches"] > 4  # recorded once, followed ever after
        assert rank["complete"] and not rank["given_up"], rank


@pytest.mark.parametrize("offload", [True, False])
def test_bf16_backbone_and_no_offload(two, project, offload):
    name = "zero3_offload" if offload else "zero3"
    settings = json.loads((project / "ds_configs" / f"{name}.json").read_text())
    assert ("offload_param" in settings["zero_optimization"]) == offload
    out = two.run(
        "gradients", family="llama", deepspeed=str(project / "ds_configs" / f"{name}.json"), budget=80, dtype="bfloat16"
    )
    expected = plain_gradients("llama", 80, "bfloat16", packed=True)
    assert (
        max(relative(out[0]["grads"], expected).values()) <= 2e-2
    )  # bf16 activations; batches are cut alike, sums are not


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("layers", "offload_inputs"), [(1, False), (3, False), (3, True)])
def test_recompute_changes_nothing(two, cpu, layers, offload_inputs, packed):
    plain = two.run("gradients", family="llama", deepspeed=cpu, budget=80, packed=packed)
    again = two.run(
        "gradients",
        family="llama",
        deepspeed=cpu,
        budget=80,
        recompute=layers,
        offload_inputs=offload_inputs,
        packed=packed,
    )
    assert max(relative(again[0]["grads"], plain[0]["grads"]).values()) <= 1e-6
    assert again[0]["gathers"] >= plain[0]["gathers"]


def test_ranks_and_micro_batches_leave_the_gradient_alone(two, three, cpu):
    expected = plain_gradients("llama", 10_000)
    # fp32: either formulation's U gradient, a sum over D that nearly cancels, is 2-3e-6 off fp64
    for packed in (False, True):
        one_by_one = plain_gradients("llama", 1, packed=packed)
        assert max(relative(one_by_one, expected).values()) <= (5e-6 if packed else 2e-6)
    for pool, budget in ((two, 40), (two, 10_000), (three, 1), (three, 60), (three, 10_000)):
        out = pool.run("gradients", family="llama", deepspeed=cpu, budget=budget)
        assert max(relative(out[0]["grads"], expected).values()) <= 1e-5, (pool.world, budget)
        np.testing.assert_array_equal(out[0]["sums"][:, 3], out[-1]["sums"][:, 3])


@pytest.mark.parametrize("family", ["llama", "llama3", "gpt_oss"])
@pytest.mark.parametrize("first", [0, 8000])
def test_buffers_and_logits_equal_a_model_built_without_deepspeed(two, project, family, first):
    for rank in two.run(
        "faithful",
        family=family,
        deepspeed=str(project / "ds_configs" / "zero3_offload.json"),
        dtype="bfloat16",
        first_position=first,
    ):
        assert rank["buffers"] == 0.0 and any("inv_freq" in n for n in rank["names"])
        assert set(rank["dtypes"]) == {"torch.float32"}
        print(
            f"{family} from position {first}: buffers {rank['buffers']}, logits {rank['logits']:.1e} of "
            f"{rank['scale']:.2f}"
        )
        assert rank["logits"] == 0.0, rank
        assert rank["sensitivity"] > 1e-3 * rank["scale"], "the check could not see a wrong position"


def test_training_leaves_the_backbone_alone_and_equals_one_process(two, cpu, tmp_path):
    out = two.run("train", family="llama", deepspeed=cpu, run_dir=str(tmp_path / "two"), steps=4)
    assert all(rank["unchanged"] for rank in out)
    (tmp_path / "one").mkdir()
    backbone = jobs.ShardedBackbone(jobs.card_of("llama"), "", torch.device("cpu"))
    trainer = jobs.Trainer(jobs.stage_of(32, tmp_path / "one", 4), backbone, jobs.settings_of(500))
    trainer.stage.eval_interval = 2
    trainer.run()
    for n, p in trainer.stage.bank.named_parameters():
        np.testing.assert_allclose(out[0]["bank"][n], p.detach().numpy(), rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(out[0]["best_loss"], trainer.best_loss, rtol=1e-4)
    saved = sorted(
        str(p.relative_to(tmp_path / "two"))
        for p in (tmp_path / "two").rglob("*")
        if p.is_file() and p.parent.name != "reused"
    )
    assert saved == [
        "checkpoints/step_00000004/optimizer.safetensors",
        "checkpoints/step_00000004/prompts.safetensors",
        "checkpoints/step_00000004/state.json",
        "metrics.jsonl",
    ]


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_generation_in_step_equals_one_process(two, cpu, family):
    lengths = [3, 9, 5, 1]
    out = two.run("generate", family=family, deepspeed=cpu, lengths=lengths)
    backbone = jobs.ShardedBackbone(jobs.card_of(family), "", torch.device("cpu"))
    g = torch.Generator().manual_seed(11)
    contexts = [torch.randint(3, 256, (n,), generator=g).tolist() for n in lengths]
    prompts = torch.randn(4, jobs.LENGTH, 32, generator=g)
    for k in range(4):  # one by one: no padding at all
        alone = backbone.generate(
            [contexts[k]], prompts_BLD=prompts[k : k + 1], max_new_tokens=6, end_id=2, pad_id=2, synced=False
        ).tolist()[0]
        batched = out[k % 2][k // 2]
        assert batched[: len(alone)] == alone


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
@pytest.mark.parametrize("only", [-1, 1])
def test_slots_in_step_equal_one_process(two, cpu, family, only):
    lengths = [3, 9, 5, 1, 7, 2, 12]
    out = two.run("slots", family=family, deepspeed=cpu, lengths=lengths, only=only)
    backbone = jobs.ShardedBackbone(jobs.card_of(family), "", torch.device("cpu"))
    g = torch.Generator().manual_seed(11)
    contexts = [torch.randint(3, 256, (n,), generator=g).tolist() for n in lengths]
    prompt = torch.randn(jobs.LENGTH, 32, generator=g)
    found = {**out[0], **out[1]}
    assert sorted(found) == list(range(7)) and (only < 0 or not out[0])
    for k, context in enumerate(contexts):
        alone = backbone.generate(
            [context], prompts_BLD=prompt[None], max_new_tokens=6, end_id=2, pad_id=2, synced=False
        ).tolist()[0]
        assert found[k] == alone[: len(found[k])] and len(found[k]) == (alone.index(2) + 1 if 2 in alone else 6)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_likelihoods_of_options_equal_one_process(two, cpu, family, budget):
    sizes = [3, 9, 5]
    out = two.run("likelihoods", family=family, deepspeed=cpu, sizes=sizes, budget=budget)
    backbone = jobs.ShardedBackbone(jobs.card_of(family), "", torch.device("cpu"))
    wanted = jobs.option_likelihoods(backbone, *jobs.invented_choices(sizes), 10_000, 0, 1)
    for rank in out:
        for found, alone in zip(rank, wanted, strict=True):
            np.testing.assert_allclose(found, alone, rtol=1e-5)


class Counting(BaseHTTPRequestHandler):
    """Stands for vLLM: says how many embeddings it got."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        answer = {
            "choices": [
                {
                    "text": f"{len(embeds)} {int(embeds[jobs.LENGTH :].abs().sum(1).gt(0).sum())}",
                    "finish_reason": "stop",
                }
            ],
            "usage": {"completion_tokens": 1},
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass


def test_ranks_ask_a_server_for_their_own_contexts_and_look_embeddings_up_together(two, cpu):
    server = HTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lengths = [3, 9, 5, 1, 7]
    try:
        out = two.run(
            "served", family="llama", deepspeed=cpu, lengths=lengths, url=f"http://127.0.0.1:{server.server_port}"
        )
    finally:
        server.shutdown()
        server.server_close()
    assert out == [{i: f"{jobs.LENGTH + n} {n}" for i, n in enumerate(lengths)}, {}]
