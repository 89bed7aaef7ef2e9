"""Weights on their way to a GPU: files through pinned buffers, dummy weights drawn there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from backbones import BackboneCard, backbone_checksum, build_backbone
from backbones.loading.sources import DummySource
from backbones.loading.staging import Staging

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: pinned loading and dummy weights drawn there are NOT tested"
)
SIZES = {
    "vocab_size": 999,
    "hidden_size": 512,
    "intermediate_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("stride", [1, 3])
def test_every_number_arrives_while_the_gpu_is_busy(dtype: torch.dtype, stride: int) -> None:
    staging = Staging(torch.device("cuda"), 1 << 16)
    assert all(b.is_pinned() for b in staging._buffers)
    busy = torch.randn(4096, 4096, device="cuda")
    for count in (1, 70_001, 1_000_003):
        expected = (torch.randn(count, generator=torch.Generator().manual_seed(count)) * 50 + 100).to(dtype)
        out = torch.zeros(count * stride, dtype=dtype, device="cuda")[::stride]
        for _ in range(20):
            busy = busy @ busy / 64
        staging.send(out, lambda start, part, e=expected: part.copy_(e[start : start + len(part)]))
        assert torch.equal(out.cpu(), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_files_reach_the_gpu_to_the_bit(tmp_path: Path, dtype: str) -> None:
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES), dtype=torch.bfloat16).save_pretrained(
        tmp_path
    )
    card = BackboneCard(name="m", path=str(tmp_path), tokenizer="unused", dtype=dtype)
    there, here = build_backbone(card, None, device=torch.device("cuda")), build_backbone(card, None)
    assert next(there.parameters()).is_cuda and backbone_checksum(there) == backbone_checksum(here)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8])
def test_dummy_numbers_are_the_same_on_the_gpu_offloaded_and_in_parts(dtype: torch.dtype) -> None:
    source = DummySource({}, 3, torch.device("cuda"))
    there = torch.empty(2_500_000, dtype=dtype, device="cuda")
    offloaded, part = (
        torch.empty(2_500_000, dtype=dtype, pin_memory=True),
        torch.empty(999_999, dtype=dtype, device="cuda"),
    )
    source.read("w", 0, there)
    source.read("w", 0, offloaded)
    source.read("w", 1_000_001, part)
    assert torch.equal(there.cpu(), offloaded) and torch.equal(part, there[1_000_001:2_000_000])
    spread = 73.9 if dtype == torch.uint8 else 0.02
    assert abs(there.float().std().item() / spread - 1) < 0.01


def test_a_dummy_backbone_comes_from_its_seed() -> None:
    card = BackboneCard(
        name="m", random={"model_type": "llama", **SIZES}, tokenizer="unused", dtype="bfloat16", dummy=True
    )
    sums = [
        backbone_checksum(build_backbone(c, None, device=torch.device("cuda")))
        for c in (card, card, replace(card, seed=1))
    ]
    assert sums[0] == sums[1] != sums[2]
