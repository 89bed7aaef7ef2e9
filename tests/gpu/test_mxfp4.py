"""Packed experts on a GPU: the kernel that widens them, grouped products, and embedding rows from the host."""

import pytest
import torch
from transformers import AutoConfig

from backbones.kernels import mxfp4
from backbones.layers.mxfp4_experts import Mxfp4Experts, dequantise, quantise
from backbones.loading.embedding_rows import RowsFromFile

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: the MXFP4 kernel and grouped products are NOT tested on one"
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_kernel_widens_to_the_bit(dtype) -> None:
    g = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (4, 5760, 90, 16), dtype=torch.uint8, generator=g)
    scales = torch.randint(0, 255, (4, 5760, 90), dtype=torch.uint8, generator=g)
    assert mxfp4.available(blocks.cuda())
    assert torch.equal(dequantise(blocks.cuda(), scales.cuda(), dtype).cpu(), dequantise(blocks, scales, dtype))


@pytest.mark.parametrize("fused", [False, True])
def test_experts_in_bf16_equal_fp64(fused: bool) -> None:
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    g = torch.Generator().manual_seed(0)
    packed = Mxfp4Experts(AutoConfig.for_model("gpt_oss", **sizes))
    for name in ("gate_up_proj", "down_proj"):
        shape = (8, getattr(packed, f"{name}_blocks").shape[1], 256)
        blocks, scales = quantise(0.05 * torch.randn(shape, generator=g))
        getattr(packed, f"{name}_blocks").data, getattr(packed, f"{name}_scales").data = blocks, scales
        getattr(packed, f"{name}_bias").data = torch.randn(shape[:2], generator=g).bfloat16().double()
    x, share = (
        torch.randn(100, 256, generator=g).bfloat16().double(),
        torch.rand(100, 2, generator=g).bfloat16().double(),
    )
    experts = torch.stack([torch.randperm(7, generator=g)[:2] for _ in range(100)])  # the eighth sees no token
    weights = torch.randn(100, 256, generator=g).bfloat16().double()
    outs = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.bfloat16)):
        module = packed.to(device)
        module.fused = fused
        for name in ("gate_up_proj_bias", "down_proj_bias"):
            getattr(module, name).data = getattr(module, name).data.to(dtype)
        inputs = [t.to(device, dtype).requires_grad_() for t in (x, share)]
        out = module(inputs[0], experts.to(device), inputs[1])
        outs.append(
            [
                t.double().cpu()
                for t in (out.detach(), *torch.autograd.grad((out * weights.to(device, dtype)).sum(), inputs))
            ]
        )
    for exact, found in zip(*outs, strict=True):
        assert (found - exact).norm() / exact.norm() <= 2e-2


def test_embedding_rows_come_to_the_gpu() -> None:
    table = torch.randn(1000, 64).bfloat16()
    ids = torch.randint(0, 1000, (3, 50))
    for where in (ids, ids.cuda()):
        found = RowsFromFile(table, torch.bfloat16, torch.device("cuda"))(where)
        assert found.is_cuda and torch.equal(found.cpu(), table[ids])
