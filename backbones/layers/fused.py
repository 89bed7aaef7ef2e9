"""RMSNorms, SwiGLUs and rotary positions of transformers' decoder layers, each as one operator with a backward pass of
its own.

transformers norms a bf16 row in six operators, in fp32, and keeps fp32 copies for the backward pass; of a Llama 8B's
time on an H100 a third would go there and into SiLU. What is computed is the same. Modules, their names and parameters
stay as they are: only ``forward`` of an instance is replaced, so that DeepSpeed's hooks gather weights as before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from transformers.activations import SiLUActivation

from backbones.kernels import fused
from backbones.layers.mxfp4_experts import Mxfp4Experts

# transformers' classes whose function these are: name of the class -> whether the weight meets fp32
NORMS = {
    "LlamaRMSNorm": False,
    "MistralRMSNorm": False,
    "Qwen2RMSNorm": False,
    "Qwen3RMSNorm": False,
    "Phi3RMSNorm": False,
    "GptOssRMSNorm": True,
}
SILU = (nn.SiLU, SiLUActivation)
GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
ROTARY = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention", "GptOssAttention")
ROTATES = "apply_rotary_pos_emb"  # what their forward calls by this name turns all numbers of a head


def fuse(model: nn.Module) -> int:
    """Replace what is known, in place. -> how many modules."""
    found = 0
    for module in model.modules():
        kind = type(module).__name__
        if kind in NORMS and module.weight.numel() <= fused.WIDEST:  # type: ignore[operator]
            module.forward = MethodType(_norm_forward, module)
        elif kind in GATED and isinstance(module.act_fn, SILU):
            module.forward = MethodType(_gated_forward, module)
        elif isinstance(module, Mxfp4Experts):
            pass  # its own forward looks at the mark below
        elif kind in ROTARY and ROTATES in type(module).forward.__code__.co_names:
            module.forward = MethodType(_rotating(type(module).forward), module)
        else:
            continue
        module.fused = True  # type: ignore[assignment]
        found += 1
    return found


def is_fused(model: nn.Module) -> bool:
    """Whether ``fuse`` has replaced anything in it that is still in place."""
    return any(vars(module).get("fused") is True for module in model.modules())


def unfuse(model: nn.Module) -> int:
    """Undo ``fuse``, in place: every module has the forward of its class again. -> how many modules."""
    found = [module for module in model.modules() if vars(module).get("fused") is True]
    for module in found:
        module.fused = False  # type: ignore[assignment]
        vars(module).pop("forward", None)
    return len(found)


@contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Within, the model runs transformers' own operators; afterwards it is as it was. Costs milliseconds, no memory."""
    found = unfuse(model)
    try:
        yield
    finally:
        if found:
            fuse(model)


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    if not fused.available(hidden_states):
        return type(self).forward(self, hidden_states)  # type: ignore[no-any-return]
    kind = NORMS[type(self).__name__]
    normed: Tensor = _norm(hidden_states, self.weight, self.variance_epsilon, kind)
    return normed


def _gated_forward(self: Any, x: Tensor) -> Tensor:
    if not fused.available(x):
        return type(self).forward(self, x)  # type: ignore[no-any-return]
    out: Tensor = self.down_proj(_silu_times(self.gate_proj(x), self.up_proj(x)))
    return out


def _rotating(forward: Any) -> FunctionType:
    """The same function, in which that name stands for ours; other models of the process keep theirs."""
    plain = forward.__globals__[ROTATES]

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        fits = len(q) == len(cos) == 1 and unsqueeze_dim == 1 and cos.shape[-1] in (q.shape[-1], q.shape[-1] // 2)
        if not fits or not fused.available(q):
            return plain(q, k, cos, sin, unsqueeze_dim)  # type: ignore[no-any-return]
        # squeeze, for the backward pass of an index writes zeros everywhere else
        cos_Sd, sin_Sd = cos.squeeze(0), sin.squeeze(0)
        return _rotated(q.squeeze(0), cos_Sd, sin_Sd)[None], _rotated(k.squeeze(0), cos_Sd, sin_Sd)[None]

    names = forward.__globals__ | {ROTATES: rotate}
    ours = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    ours.__kwdefaults__ = forward.__kwdefaults__
    return ours


class _Rotated(Function):
    @staticmethod
    def forward(ctx: Any, x_HSd: Tensor, cos_Sd: Tensor, sin_Sd: Tensor) -> Tensor:
        ctx.save_for_backward(cos_Sd, sin_Sd)
        return fused.rotated(x_HSd, cos_Sd, sin_Sd, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos_Sd, sin_Sd = ctx.saved_tensors
        return fused.rotated(grads[0], cos_Sd, sin_Sd, back=True), None, None


class _Norm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: nn.Parameter, eps: float, wide: bool) -> Tensor:
        # the Parameter itself: under ZeRO-3 its data is gone by the backward pass, and gathered again for it
        ctx.weight, ctx.eps = weight, eps
        ctx.save_for_backward(x)
        return fused.rms_norm(x, weight_D=weight, eps=eps, wide=wide)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return fused.rms_norm_backward(grads[0], x, weight_D=ctx.weight, eps=ctx.eps), None, None, None


class _SiluTimes(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return fused.silu_times(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return fused.silu_times_backward(grads[0], *ctx.saved_tensors)


# an autograd function's `apply` is untyped in torch
_norm: Any = _Norm.apply
_silu_times: Any = _SiluTimes.apply
_rotated: Any = _Rotated.apply
