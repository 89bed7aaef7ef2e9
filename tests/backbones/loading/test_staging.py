"""Weights on their way to a device through two small buffers, with a CPU as the device: nothing is lost, swapped or
overwritten too early.
"""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from backbones import BackboneCard, backbone_checksum, build_backbone
from backbones.layers.mxfp4_experts import dequantise, quantise
from backbones.loading import from_files, staging
from backbones.loading.sources import DummySource, WidenedExperts
from backbones.loading.staging import Staging
from backbones.loading.weight_source import Stored

CPU = torch.device("cpu")


def numbers(count: int, dtype: torch.dtype) -> torch.Tensor:
    g = torch.Generator().manual_seed(count)
    if dtype == torch.uint8:
        return torch.randint(0, 256, (count,), dtype=dtype, generator=g)
    return torch.randn(count, generator=g).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 31, 64, 65, 1001])
def test_every_number_arrives_at_its_place(dtype: torch.dtype, count: int) -> None:
    kept = Staging(CPU, 64)
    for seed in range(2):  # the buffers hold the last tensor's numbers still
        expected = numbers(count + seed, dtype)
        out = torch.zeros_like(expected)
        kept.send(out, lambda start, part, e=expected: part.copy_(e[start : start + len(part)]))
        assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_numbers_between_the_places_are_left_alone(dtype: torch.dtype) -> None:
    expected, memory = numbers(77, dtype), torch.full((78 * 3,), 5, dtype=dtype)
    out = memory[4::3]
    Staging(CPU, 64).send(out[:76], lambda start, part: part.copy_(expected[start : start + len(part)]))
    assert (
        torch.equal(out[:76], expected[:76]) and (memory[2::3] == 5).all() and (memory[::3] == 5).all() and out[76] == 5
    )


def test_a_part_is_read_while_the_one_before_is_copied_and_never_into_memory_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    turns = iter(range(9))

    def arrival(device: torch.device):
        turn = next(turns)
        seen.append(f"sent {turn}")
        return lambda: seen.append(f"there {turn}")

    monkeypatch.setattr(staging, "arrival", arrival)
    places = set()

    def read(start: int, part: torch.Tensor) -> None:
        seen.append(f"read {start // 16}")
        places.add(part.data_ptr())

    Staging(CPU, 16).send(torch.empty(60, dtype=torch.uint8), read)
    assert seen == [
        "read 0",
        "sent 0",
        "read 1",
        "sent 1",
        "there 0",
        "read 2",
        "sent 2",
        "there 1",
        "read 3",
        "sent 3",
        "there 2",
        "there 3",
    ]
    assert len(places) == 2


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_a_whole_backbone_arrives_to_the_bit(tmp_path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    sizes = {
        "vocab_size": 99,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    more = {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8} if kind == "gpt_oss" else {}
    expected = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more), dtype=torch.float32)
    expected.save_pretrained(tmp_path)
    made = []
    monkeypatch.setattr(from_files, "read_in_place", lambda out: False)
    monkeypatch.setattr(from_files, "PIECE", 300)
    monkeypatch.setattr(from_files, "Staging", lambda device: made.append(Staging(device, 104)) or made[-1])
    for dtype in ("float32", "bfloat16"):
        made.clear()
        found = build_backbone(BackboneCard(name="m", path=str(tmp_path), tokenizer="unused", dtype=dtype), None)
        assert 1 <= len(made) <= from_files.THREADS
        assert backbone_checksum(found) == backbone_checksum(expected.to(getattr(torch, dtype)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_stretch_of_widened_experts_is_that_of_the_whole(dtype: torch.dtype) -> None:
    blocks, scales = quantise(torch.randn(3, 10, 128, generator=torch.Generator().manual_seed(0)))
    whole = dequantise(blocks, scales, dtype).transpose(1, 2).flatten()

    class Files:
        def tensors(self) -> dict[str, Stored]:
            return {f"w_{n}": Stored(tuple(t.shape), t.dtype) for n, t in (("blocks", blocks), ("scales", scales))}

        def read(self, name: str, start: int, out: torch.Tensor) -> None:
            out.copy_((blocks if name == "w_blocks" else scales).flatten()[start : start + len(out)])

    source = WidenedExperts(Files(), dtype)  # type: ignore[arg-type]
    for start, count in (
        (0, 3840),
        (0, 1),
        (319, 1),
        (319, 2),
        (320, 320),
        (1279, 2),
        (5, 2000),
        (2563, 1277),
        (3839, 1),
    ):
        out = torch.empty(count, dtype=dtype)
        source.read("w", start, out)
        assert torch.equal(out, whole[start : start + count])


def test_dummy_numbers_do_not_depend_on_how_they_are_cut() -> None:
    source = DummySource({}, 3, CPU)
    whole, other = torch.empty(2_500_000, dtype=torch.bfloat16), torch.empty(999_999, dtype=torch.bfloat16)
    source.read("w", 0, whole)
    source.read("w", 1_000_001, other)
    assert torch.equal(other, whole[1_000_001:2_000_000])
    DummySource({}, 3).read("w", 1_000_001, other)
    assert torch.equal(other, whole[1_000_001:2_000_000])
