"""MXFP4 widened on a GPU: one Triton launch, each byte read once, each number written once."""

from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch brings none, and needs none
    triton = None

GROUPS = 64  # blocks of 32 numbers that one program widens


def available(tensor: Tensor) -> bool:
    """Whether the kernel can run on this tensor's device: a GPU, or Triton's interpreter."""
    if triton is None:
        return False
    return tensor.is_cuda or triton.knobs.runtime.interpret


def dequantise_into(blocks: Tensor, scales: Tensor, out: Tensor) -> None:
    """uint8 blocks (…, 16) and scales (…) -> out, 1-D, 32 numbers a scale, fp32 or bf16."""
    n = scales.numel()
    _widen[(triton.cdiv(n, GROUPS),)](blocks.contiguous(), scales.contiguous(), out, n, GROUPS=GROUPS)


if triton is not None:

    @triton.jit
    def _e2m1(code):
        """The value of a nibble: sign, exponent (2 bits), mantissa (1 bit)."""
        exponent = (code >> 1) & 3
        mantissa = (code & 1).to(tl.float32)
        power = tl.where(exponent == 3, 4.0, tl.where(exponent == 2, 2.0, 1.0))
        size = tl.where(exponent == 0, 0.5 * mantissa, (1.0 + 0.5 * mantissa) * power)
        return tl.where((code & 8) != 0, -size, size)

    @triton.jit
    def _widen(blocks, scales, out, n, GROUPS: tl.constexpr):
        group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
        real = group < n
        scale = tl.load(scales + group, mask=real, other=127).to(tl.int32)
        # 2^(scale - 127), by its bits: 2^-127 is the one subnormal, 255 no number
        power = tl.where(scale == 0, 0x00400000, tl.where(scale == 255, 0x7FC00000, scale << 23)).to(tl.float32, bitcast=True)
        byte = tl.load(blocks + group[:, None] * 16 + tl.arange(0, 16)[None, :], mask=real[:, None], other=0).to(tl.int32)
        low, high = _e2m1(byte & 15) * power[:, None], _e2m1(byte >> 4) * power[:, None]
        pairs = tl.interleave(low, high)
        tl.store(out + group[:, None] * 32 + tl.arange(0, 32)[None, :], pairs.to(out.dtype.element_ty), mask=real[:, None])
