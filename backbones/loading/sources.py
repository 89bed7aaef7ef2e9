"""Frozen weights that do not lie in files as the model holds them: widened, converted, or drawn from a seed."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig

from backbones.card import BackboneError
from backbones.layers import BLOCK, PACKED, dequantise, quantise
from backbones.loading.safetensors_source import SafetensorsSource
from backbones.loading.weight_source import CHUNK, Stored


class WidenedExperts:
    """Another source's MXFP4 experts as the matrices that transformers' GptOssExperts holds: (E, in, out), of no
    dtype of their own.
    """

    def __init__(self, inner: SafetensorsSource, dtype: torch.dtype):
        self.inner, self.dtype = inner, dtype

    def mapped(self, name: str) -> Tensor:
        return self.inner.mapped(name)

    def tensors(self) -> dict[str, Stored]:
        out = {}
        for name, stored in self.inner.tensors().items():
            if name.endswith("_blocks"):
                experts, rows, groups, _ = stored.shape
                out[name.removesuffix("_blocks")] = Stored((experts, groups * BLOCK, rows), self.dtype)
            elif not name.endswith("_scales"):
                out[name] = stored
        return out

    def read(self, name: str, start: int, out: Tensor) -> None:
        stored = self.inner.tensors().get(f"{name}_blocks")
        if stored is None:
            self.inner.read(name, start, out)
            return
        _, rows, groups, half = stored.shape
        each = rows * groups * BLOCK
        for expert, own, place in _pieces(start, out.numel(), each):
            blocks = torch.empty(rows * groups * half, dtype=torch.uint8)
            scales = torch.empty(rows * groups, dtype=torch.uint8)
            self.inner.read(f"{name}_blocks", expert * len(blocks), blocks)
            self.inner.read(f"{name}_scales", expert * len(scales), scales)
            # only the groups of inputs that the stretch touches are widened: an expert is read in several parts
            first, end = own.start // rows // BLOCK, -(-own.stop // (rows * BLOCK))
            touched = blocks.view(rows, groups, half)[:, first:end], scales.view(rows, groups)[:, first:end]
            wide, skipped = dequantise(*touched, out.dtype), first * BLOCK * rows
            out[place].copy_(wide.T.flatten()[own.start - skipped : own.stop - skipped])


def _pieces(start: int, count: int, each: int) -> Iterator[tuple[int, slice, slice]]:
    """A stretch of numbers cut at multiples of ``each``: (which, its own numbers, their place in the stretch)."""
    done = 0
    while done < count:
        which, first = divmod(start + done, each)
        n = min(each - first, count - done)
        yield which, slice(first, first + n), slice(done, done + n)
        done += n


class RandomSource:
    """Weights drawn by transformers' own initialisation from a seed, in fp32, outside DeepSpeed; whole in this process.

    Args:
        mxfp4: give the experts as MXFP4.
    """

    def __init__(self, config: PreTrainedConfig, seed: int, mxfp4: bool = False):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weights = dict(AutoModelForCausalLM.from_config(config, dtype=torch.float32).named_parameters())
        self._weights: dict[str, Tensor] = {}
        for name, weight in weights.items():
            if mxfp4 and name.endswith(PACKED):
                blocks, scales = quantise(weight.detach().transpose(1, 2))
                self._weights[f"{name}_blocks"], self._weights[f"{name}_scales"] = blocks, scales
            else:
                self._weights[name] = weight.detach()

    def tensors(self) -> dict[str, Stored]:
        return {name: Stored(tuple(weight.shape), weight.dtype) for name, weight in self._weights.items()}

    def read(self, name: str, start: int, out: Tensor) -> None:
        out.copy_(self._weights[name].flatten()[start : start + out.numel()])


class ConvertedSource:
    """A released folder through transformers' own loader, which knows how a family's weights are renamed and
    merged; whole in this process.
    """

    def __init__(self, folder: Path):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype="auto",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        wrong = []
        for kind in ("missing", "unexpected", "mismatched"):
            for name in sorted(map(str, found[f"{kind}_keys"])):
                wrong.append(f"backbone {folder}: {kind}: {name}")
        if wrong:
            raise BackboneError(wrong)
        self._weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def tensors(self) -> dict[str, Stored]:
        return {name: Stored(tuple(weight.shape), weight.dtype) for name, weight in self._weights.items()}

    def read(self, name: str, start: int, out: Tensor) -> None:
        out.copy_(self._weights[name].flatten()[start : start + out.numel()])


class DummySource:
    """Seeded values of any shape, drawn where they are asked for: an 8B model's worth without its files or a second
    copy of it.

    A weight has the same values resident, partitioned and offloaded. A GPU's differ from a CPU's, and may differ from
    another kind of GPU's.

    Args:
        wanted: what the model holds.
        device: draws the numbers, wherever they go. A core of a CPU draws 0.14 billion a second: 7 s for Llama-8B with
            eight.
    """

    def __init__(self, wanted: dict[str, Stored], seed: int, device: torch.device | None = None):
        self.wanted, self.seed = wanted, seed
        # with its index: the threads that read have a current device of their own
        self.device = torch.empty(0, device=device or "cpu").device

    def tensors(self) -> dict[str, Stored]:
        return self.wanted

    def read(self, name: str, start: int, out: Tensor) -> None:
        """As of any source; ``out`` may also be on a GPU."""
        if "norm" in name or name.endswith("_scales"):
            out.fill_(1 if "norm" in name else 120)  # 2^-7 times e2m1's spread is about 0.02
            return
        for chunk, own, place in _pieces(start, out.numel(), CHUNK):
            seed = int.from_bytes(hashlib.sha256(f"{self.seed}|{name}|{chunk}".encode()).digest()[:8], "little") >> 1
            generator = torch.Generator(self.device).manual_seed(seed)
            if out.dtype == torch.uint8:
                drawn = torch.randint(0, 256, (CHUNK,), dtype=torch.uint8, generator=generator, device=self.device)
            else:
                drawn = torch.empty(CHUNK, device=self.device).normal_(std=0.02, generator=generator)
            out[place].copy_(drawn[own].to(out.dtype))  # half the bytes on the way to the host
