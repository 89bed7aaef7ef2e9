"""What runs on a GPU alone: flash attention of packed rows, the head in bf16, the projection kernels. Skipped, and
said so, without one.
"""

import warnings

import pytest
import torch

from backbones import BackboneCard, build_backbone, share_prefix
from backbones.attention import shared_prefix
from backbones.layers.fused import fuse
from engine.data.sample import Sample
from engine.distributed.zero3 import ShardedBackbone
from engine.training.forward_backward import ForwardBackward, LossWeights
from prompt_modules import DecomposedBank, LoraBank, lora_start, teacher_states, tied_head_loss
from prompt_modules.projection import available, packed_row, packed_row_reference
from tests.gpu.small_models import EXPERTS, SIZES

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no GPU: flash attention, bf16 products and Triton kernels are NOT tested on one",
)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


@pytest.mark.parametrize("window", [None, 64, 128])
@pytest.mark.parametrize("sink", [None, 0.0, 8.0])
@pytest.mark.parametrize("heads", [(8, 8), (16, 2)])
def test_flash_attention_of_packed_rows(heads, sink, window) -> None:
    """bf16 on the GPU, in parts where there is no window, against fp64 on the CPU, which is tested against the
    definition.
    """
    g = torch.Generator().manual_seed(0)
    lengths, slots, prompts, length = [7, 300, 301, 41, 129], [0, 0, 1, 1, 2], 3, 100
    n = prompts * length + sum(lengths)
    wide = [
        torch.randn(n, h, 64, generator=g).bfloat16().double().requires_grad_() for h in (heads[0], heads[1], heads[1])
    ]
    sinks = None if sink is None else torch.randn(heads[0], generator=g) + sink
    weights = torch.randn(n, heads[0], 64, generator=g).bfloat16()
    wanted = shared_prefix._Packed.apply(
        *wide,
        None if sinks is None else sinks.double(),
        share_prefix(lengths, slots, n_prompts=prompts, length=length),
        window,
        0.125,
    )
    wanted_grads = torch.autograd.grad((wanted * weights.double()).sum(), wide)
    narrow = [x.detach().bfloat16().cuda().requires_grad_() for x in wide]
    prefix = share_prefix(lengths, slots, n_prompts=prompts, length=length, device="cuda")
    assert prefix.segments is not None
    found = shared_prefix.packed_attention(*narrow, None if sinks is None else sinks.cuda(), prefix, window, 0.125)
    found_grads = torch.autograd.grad((found * weights.cuda()).sum(), narrow)
    assert relative(found.cpu(), wanted) <= 1e-2
    for a, b in zip(found_grads, wanted_grads, strict=True):
        assert relative(a.cpu(), b) <= 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sink, window", [(None, None), (0.0, 64)])
def test_attention_in_dtypes_that_flash_attention_does_not_know(dtype, sink, window) -> None:
    g = torch.Generator().manual_seed(0)
    lengths, slots, prompts, length = [7, 300, 301, 41, 129], [0, 1, 1, 2, 0], 3, 100
    n = prompts * length + sum(lengths)
    wide = [torch.randn(n, h, 64, generator=g).double().requires_grad_() for h in (8, 2, 2)]
    sinks = None if sink is None else torch.randn(8, generator=g) + sink
    weights = torch.randn(n, 8, 64, generator=g)
    plan = share_prefix(lengths, slots, n_prompts=prompts, length=length)
    wanted = shared_prefix._Packed.apply(*wide, None if sinks is None else sinks.double(), plan, window, 0.125)
    wanted_grads = torch.autograd.grad((wanted * weights.double()).sum(), wide)
    there = [x.detach().to("cuda", dtype).requires_grad_() for x in wide]
    plan = share_prefix(lengths, slots, n_prompts=prompts, length=length, device="cuda")
    found = shared_prefix._Packed.apply(*there, None if sinks is None else sinks.cuda(), plan, window, 0.125)
    found_grads = torch.autograd.grad((found * weights.to("cuda", dtype)).sum(), there)
    bound = 1e-12 if dtype == torch.float64 and sink is None else 2e-6
    for a, b in zip((found, *found_grads), (wanted, *wanted_grads), strict=True):
        assert a.dtype == dtype and relative(a.cpu(), b) <= bound


def test_the_gradient_of_a_prompt_that_150_samples_share_is_summed_in_fp32() -> None:
    """Summed in bf16, in whatever order the device takes, the error was 1.4e-2 and differed from run to run."""
    g = torch.Generator().manual_seed(150)
    lengths, length = torch.randint(20, 60, (150,), generator=g).tolist(), 100
    n, slots = length + sum(lengths), [0] * 150
    wide = [torch.randn(n, h, 64, generator=g).bfloat16().double().requires_grad_() for h in (8, 2, 2)]
    weights = torch.randn(n, 8, 64, generator=g).bfloat16()
    exact = shared_prefix._Packed.apply(
        *wide, None, share_prefix(lengths, slots, n_prompts=1, length=length), None, 0.125
    )
    wanted = torch.autograd.grad((exact * weights.double()).sum(), wide)
    narrow = [x.detach().bfloat16().cuda().requires_grad_() for x in wide]
    out = shared_prefix.packed_attention(
        *narrow, None, share_prefix(lengths, slots, n_prompts=1, length=length, device="cuda"), None, 0.125
    )
    found = torch.autograd.grad((out * weights.cuda()).sum(), narrow)
    for a, b in zip(found[1:], wanted[1:], strict=True):
        assert relative(a[:length].cpu(), b[:length]) <= 4e-3


@pytest.mark.parametrize("kept", ["nothing", "hidden states", "summary"])
def test_the_head_in_bf16(kept) -> None:
    g = torch.Generator().manual_seed(0)
    weight = (torch.randn(32_000, 512, generator=g) * 0.06).bfloat16().cuda()
    student = (torch.randn(256, 512, generator=g)).bfloat16().cuda()
    teacher = student + 0.1 * torch.randn(256, 512, generator=g).bfloat16().cuda()
    labels = torch.randint(0, 32_000, (256,), generator=g).cuda()
    p_s, p_t = ((h.double() @ weight.double().T).softmax(1) for h in (student, teacher))
    exact = (
        p_s - torch.zeros_like(p_s).scatter_(1, labels[:, None], 1.0) + (0.9 * (p_s - p_t) if kept != "nothing" else 0)
    ) @ weight.double()
    given = {"nothing": None, "hidden states": teacher, "summary": teacher_states(weight, teacher)}[kept]
    found = tied_head_loss(
        weight, student_ND=student, teacher=given, labels_N=labels, weights_N=torch.ones(256).cuda(), kl=0.9
    )
    assert relative(found.gradient_ND, exact) <= 2e-3


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("rank, width, tokens", [(1, 4096, 700), (4, 2880, 1), (2, 511, 0)])
def test_projection_kernels(rank, width, tokens, own) -> None:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g).cuda().requires_grad_()  # noqa: E731
    shared, cols, rows = draw(21 if own else 1, 100, width), draw(21, 100, rank), draw(21, rank, width)
    chosen, text = (
        torch.randperm(21, generator=g)[:19].cuda(),
        torch.randn(tokens, width, generator=g).bfloat16().cuda(),
    )
    assert available(text)
    weights = torch.randn(1900 + tokens, width, generator=g).bfloat16().cuda()
    found, again, wanted = (f(shared, cols, rows, chosen, text) for f in (packed_row, packed_row, packed_row_reference))
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)
    grads = [torch.autograd.grad((row * weights).sum(), (shared, cols, rows)) for row in (found, again, wanted)]
    for a, b, c in zip(*grads, strict=True):
        assert torch.equal(a, b) and relative(a, c) <= 1e-2


@pytest.mark.parametrize(
    "config", [{"model_type": "llama"}, {"model_type": "gpt_oss", **EXPERTS}], ids=lambda c: c["model_type"]
)
def test_the_host_waits_for_nothing_in_a_micro_batch(config) -> None:
    """Where it waits, the GPU runs dry on short rows."""
    card = BackboneCard(name="t", random={**SIZES, **config}, seed=3, tokenizer="t", dtype="bfloat16")
    backbone = ShardedBackbone(card, "", torch.device("cuda"))
    bank = DecomposedBank(
        torch.randn(1, 8, 256), cols_KLR=torch.ones(3, 8, 1), rows_KRD=torch.ones(3, 1, 256), train_shared=True
    ).cuda()
    samples = [Sample([5 + b, 6, 7], [8, 1], row=b % 3) for b in range(9)]
    forward_backward = ForwardBackward(backbone, True, 4096, 0, 1)
    (group,) = forward_backward.micro_batches(samples, bank)
    forward_backward.train(
        group, bank, weights=LossWeights(), teachers=None, cached=None
    )  # compiles, and fills what is allocated once
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            forward_backward.train(group, bank, weights=LossWeights(), teachers=None, cached=None)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [
        f"{w.filename}:{w.lineno}" for w in seen if "synchroniz" in str(w.message) and "torch/cuda" not in w.filename
    ]
    backbone.destroy()
    assert not waits


@pytest.mark.parametrize(
    "config", [{"model_type": "llama"}, {"model_type": "gpt_oss", **EXPERTS}], ids=lambda c: c["model_type"]
)
def test_fused_parts_are_no_further_from_fp64_than_transformers_operators(config) -> None:
    g = torch.Generator().manual_seed(0)
    model = build_backbone(
        BackboneCard(name="t", random={**SIZES, **config}, seed=3, tokenizer="t", dtype="bfloat16"),
        None,
        device=torch.device("cuda"),
    )
    norm, sizes = model.model.layers[0].input_layernorm, (1, 512, 256)
    norm.weight.data.copy_(1 + 0.3 * torch.randn(256, generator=g))
    x, grad = (torch.randn(sizes, generator=g).bfloat16().cuda() for _ in range(2))
    wide, weight = x.double().requires_grad_(), norm.weight.double()
    exact = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon) * weight
    wanted = [exact, *torch.autograd.grad(exact, wide, grad.double())]
    errors = []
    for fused in (False, True):
        if fused:
            assert fuse(model)
        given = x.clone().requires_grad_()
        value = norm(given)
        found = [value, *torch.autograd.grad(value, given, grad)]
        errors.append([relative(a, b) for a, b in zip(found, wanted, strict=True)])
    assert all(ours <= 1.05 * theirs for theirs, ours in zip(*errors, strict=True))


def test_a_fused_llama_gives_the_gradient_of_a_plain_one() -> None:
    """In fp32, so that what differs is an error and not a rounding."""
    samples, grads = [Sample([5 + b, 6, 7], [8, 1], row=b % 3) for b in range(9)], []
    for fused in (False, True):
        card = BackboneCard(name="t", random={**SIZES, "model_type": "llama"}, seed=3, tokenizer="t", dtype="float32")
        backbone = ShardedBackbone(card, deepspeed_file="", device=torch.device("cuda"), fused=fused)
        start_SLD = torch.randn(1, 8, 256, generator=torch.Generator().manual_seed(0))
        bank = DecomposedBank(
            start_SLD, cols_KLR=torch.ones(3, 8, 1), rows_KRD=torch.ones(3, 1, 256), train_shared=True
        ).cuda()
        forward_backward = ForwardBackward(backbone, True, 4096, 0, 1)
        for group in forward_backward.micro_batches(samples, bank):
            forward_backward.train(group, bank, weights=LossWeights(), teachers=None, cached=None)
        grads.append(torch.cat([p.grad.flatten() for p in bank.parameters()]))
        backbone.destroy()
    assert not torch.equal(*grads) and relative(grads[1], grads[0]) <= 1e-4


def test_lora_of_many_tasks_in_grouped_products() -> None:
    """In bf16 against one task after the other in fp64 on the CPU."""
    g = torch.Generator().manual_seed(0)
    sizes = [300, 1, 77, 512]
    start = lora_start(
        6,
        shapes={"a.q": (256, 128)},
        rank=16,
        hidden=8,
        generators=[torch.Generator().manual_seed(k) for k in range(6)],
    )
    start.up["a-q"].data = torch.randn(6, 256, 16, generator=g)
    for p in (start.down["a-q"], start.up["a-q"]):
        p.data = p.data.bfloat16().float()
    x, weights = (torch.randn(1, sum(sizes), width, generator=g).bfloat16() for width in (128, 256))
    found = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        bank = LoraBank(start.prompts_KLD, {"a.q": start.down["a-q"].data}, {"a.q": start.up["a-q"].data}).to(device)
        given = x.to(device, dtype).requires_grad_()
        out = bank.updates([3, 0, 5, 1], sizes)(
            "a.q", given, torch.zeros(1, sum(sizes), 256, dtype=dtype, device=device)
        )
        (out * weights.to(device, dtype)).sum().backward()
        found.append([out.detach().cpu(), given.grad.cpu(), bank.down["a-q"].grad.cpu(), bank.up["a-q"].grad.cpu()])
    for exact, ours in zip(*found, strict=True):
        assert relative(ours, exact) <= 1e-2
