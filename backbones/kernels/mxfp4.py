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


def dequantise_into(blocks: Tensor, scales: Tensor, out: Tensor, ends_E: Tensor | None = None) -> None:
    """uint8 blocks (…, 16) and scales (…) -> out, 1-D, 32 numbers a scale, fp32 or bf16.

    Args:
        ends_E: where the rows of each expert, the first dimension, end. Experts without a row are left out: decoding
            asks few of them, and the host need not know which.
    """
    n, some = scales.numel(), ends_E is not None
    per_expert = n // len(scales)
    _widen[(triton.cdiv(n, GROUPS),)](
        blocks.contiguous(),
        scales.contiguous(),
        out,
        ends_E if some else scales,
        n,
        per_expert,
        SOME=some,
        GROUPS=GROUPS,
    )


if triton is not None:

    @triton.jit
    def _e2m1(byte, up: tl.constexpr):
        """2^-126 times the value of a nibble, which is moved ``up`` bits to stand in front of bit 25.

        Exponent (2 bits) and mantissa (1 bit) become the last two bits of an fp32 exponent and the first bit of its
        mantissa. So 0.5, which has no exponent, becomes a subnormal number: a product by 2^126 sets it right too. Few
        operations, or they take longer than memory does.
        """
        return (((byte << up) & 0x01C00000) | ((byte << (up + 6)) & -0x80000000)).to(tl.float32, bitcast=True)

    @triton.jit
    def _widen(blocks, scales, out, ends, n, per_expert, SOME: tl.constexpr, GROUPS: tl.constexpr):
        group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
        real = group < n
        if SOME:
            expert = group // per_expert
            real = real & (
                tl.load(ends + expert, mask=real, other=0)
                > tl.load(ends + expert - 1, mask=real & (expert > 0), other=0)
            )
        scale = tl.load(scales + group, mask=real, other=127).to(tl.int32)
        # 2^(scale - 127), by its bits: 2^-127 is the one subnormal, 255 no number
        power = tl.where(scale == 0, 0x00400000, tl.where(scale == 255, 0x7FC00000, scale << 23)).to(
            tl.float32, bitcast=True
        )[:, None]
        byte = tl.load(blocks + group[:, None] * 16 + tl.arange(0, 16)[None, :], mask=real[:, None], other=0).to(
            tl.int32
        )
        # two products, for 2^126 times the power may be too large for fp32
        low, high = _e2m1(byte, 22) * 8.507059173023462e37 * power, _e2m1(byte, 18) * 8.507059173023462e37 * power
        pairs = tl.interleave(low, high)
        tl.store(
            out + group[:, None] * 32 + tl.arange(0, 32)[None, :], pairs.to(out.dtype.element_ty), mask=real[:, None]
        )
