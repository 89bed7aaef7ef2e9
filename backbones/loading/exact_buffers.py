"""Buffers as they are outside DeepSpeed's zero.Init, which rounds them."""

import contextlib
from collections.abc import Callable, Iterator

from torch import nn
from transformers import PreTrainedModel

from backbones.card import BackboneError


def rebuild_buffers(model: PreTrainedModel, build: Callable[[], PreTrainedModel]) -> None:
    """zero.Init computes buffers in bf16 (RoPE inv_freq 5 % off), and weight files hold none: compute them again.

    Args:
        build: makes the model again, outside zero.Init; its weights take no memory.

    Raises:
        BackboneError: buffers that are neither RoPE's nor the embedding table's.
    """
    table, scaled = model.get_input_embeddings(), False
    for name, module in list(model.named_modules()):
        buffers = dict(module.named_buffers(recurse=False))
        if "inv_freq" in buffers:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], type(module)(model.config))
        elif module is table and buffers.keys() <= table._non_persistent_buffers_set:
            scaled = bool(buffers)  # Gemma's table multiplies by one
        elif buffers:
            reason = f"{name} holds buffers ({', '.join(buffers)}) that DeepSpeed's zero.Init may have rounded to bf16"
            raise BackboneError(f"backbone: {reason}")
    if scaled:
        with _weights_without_memory():
            exact = build()
        table._buffers.update(exact.get_input_embeddings()._buffers)


@contextlib.contextmanager
def _weights_without_memory() -> Iterator[None]:
    """Within, what modules register as parameters lies on the meta device; their buffers are computed as ever."""
    plain = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        plain(self, name, param)

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = plain  # type: ignore[method-assign]
