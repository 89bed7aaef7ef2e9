"""Every Triton kernel compiles for an H100 without one, keeps its numbers in registers, and spills none to memory."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

triton = pytest.importorskip("triton", reason="triton is not installed: kernels are NOT compiled")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from backbones.attention import collect_kernel, merge_kernel  # noqa: E402
from backbones.kernels import experts, fused, mxfp4  # noqa: E402
from prompt_modules import projection  # noqa: E402

H100 = GPUTarget("cuda", 90, 32)
# arguments that are no float tensors, by name; what is in neither is a tensor of the case's dtype
WHOLE = {
    "n_tokens",
    "length",
    "width",
    "prompt_tiles",
    "present",
    "row_tiles",
    "n",
    "first",
    "heads",
    "own_row",
    "own_head",
    "other_row",
    "other_head",
    "half",
    "angles",
    "second",
    "x_head",
    "x_token",
    "inner",
    "prompts",
    "reach",
    "per_expert",
}
REAL = {"eps", "alpha", "limit"}
INDICES = {"rows_k", "expert", "experts", "order", "row_of", "home", "first_of"}
BYTES = {"blocks", "scales"}
WIDE = {
    "shared",
    "cols",
    "d_shared",
    "d_cols",
    "d_rows",
    "total",
    "lse_own",
    "lse_other",
    "d_share",
}  # fp32, whatever the dtype
PROJECTION = {"RANK": 4, "OWN_SHARED": True, "ROWS": projection.ROWS, "WIDTH": projection.WIDTH}
WIDTH = 4096  # of Llama 8B, and the next power of two of gpt-oss's 2880
KERNELS: dict[str, tuple[Any, dict[str, Any], set[str], set[str]]] = {
    # kernel, its constants, and of its arguments those that are fp32 or whole numbers here and something else in other
    # kernels
    "write_row": (projection._write_row, PROJECTION, {"rows"}, set()),
    "shared_gradient": (projection._shared_gradient, PROJECTION, {"rows"}, set()),
    "factor_gradients": (projection._factor_gradients, PROJECTION, {"rows"}, set()),
    "widen": (mxfp4._widen, {"SOME": True, "GROUPS": mxfp4.GROUPS}, set(), set()),
    "merge": (merge_kernel._merge, {"SINK": True, "ROWS": merge_kernel.ROWS, "WIDTH": 128}, set(), {"tokens"}),
    "collect": (collect_kernel._collect, {"BLOCK": 1024}, set(), set()),
    "rotate": (fused._rotate, {"BACK": False, "HEADS": fused.HEADS, "BLOCK": 64}, set(), set()),
    "rotate_back": (fused._rotate, {"BACK": True, "HEADS": fused.HEADS, "BLOCK": 64}, set(), set()),
    "norm": (fused._norm, {"WIDE": False, "BLOCK": WIDTH}, set(), set()),
    "norm_backward": (fused._norm_backward, {"BLOCK": WIDTH}, set(), set()),
    "silu_times": (fused._silu_times, {"BLOCK": fused.BLOCK}, set(), set()),
    "silu_times_backward": (fused._silu_times_backward, {"BLOCK": fused.BLOCK}, set(), set()),
    "activate": (experts._activate, {"BLOCK": experts.BLOCK}, set(), set()),
    "activate_backward": (
        experts._activate_backward,
        {"CHOICES": 4, "BLOCK": experts.BLOCK},
        set(),
        set(),
    ),
    "combine": (experts._combine, {"CHOICES": 4, "WEIGHTED": True, "BLOCK": experts.BLOCK}, set(), set()),
}


def type_of(name: str, dtype: str, wide: set[str], whole: set[str]) -> str:
    if name in WHOLE | whole:
        return "i32"
    if name in REAL:
        return "fp32"
    if name in INDICES:
        return "*i64"
    if name in ("begins", "ends"):
        return "*i32"
    if name in BYTES:
        return "*u8"
    return "*fp32" if name in WIDE | wide else f"*{dtype}"


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_it_compiles_and_spills_nothing(kernel: str, dtype: str, tmp_path: Path) -> None:
    function, constants, wide, whole = KERNELS[kernel]
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else type_of(n, dtype, wide, whole) for n in names}
    values = {(names.index(n),): value for n, value in constants.items()}
    aligned = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if signature[name].startswith("*")}
    compiled = triton.compile(ASTSource(function, signature, values, aligned), target=H100)
    (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    used = subprocess.run(
        [tool, "--dump-resource-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True
    ).stdout
    registers, stack, local = (int(re.findall(rf"{what}:(\d+)", used)[0]) for what in ("REG", "STACK", "LOCAL"))
    assert stack == local == 0 and 0 < registers <= 255, used
