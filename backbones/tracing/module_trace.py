"""The order in which a micro-batch enters and leaves a backbone's modules, forward and backward: what ZeRO-3's hooks
see.

It is found by running a twin of the backbone: the same family, modules and number of layers, its widths as small as
they may be, on the CPU and without DeepSpeed, under hooks like DeepSpeed's own
(deepspeed/runtime/zero/parameter_offload.py, 0.19.8). So teacher passes, recomputed layers and whatever a family's
forward does are in it because they happen, not because they are known.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from backbones.attention import PackedBatch, share_prefix
from backbones.card import BackboneCard
from backbones.layers import BLOCK, keep_no_inputs
from backbones.loading import backbone_config, experts_as_released, read_rows_from, recompute_first
from backbones.root import Batch, FrozenRoot

KINDS = ("train", "train_with_teacher", "forward", "embed")
LENGTH, SAMPLE = 2, (3, 2)  # of the twin's micro-batch: a prompt, and a sample's context and answer


@dataclass(frozen=True)
class Visit:
    """module: number in ``Trace.modules``. enters: its parameters are fetched; else they may be released. forward: in a
    forward pass, one that a backward pass makes again included (``again``).
    """

    module: int
    enters: bool
    forward: bool
    again: bool = False


@dataclass(frozen=True)
class Trace:
    """modules: of each the names of the parameters that are its own, in their order. visits: kind of micro-batch ->
    what happens in it.
    """

    modules: tuple[tuple[str, ...], ...]
    visits: dict[str, tuple[Visit, ...]]


def trace(card: BackboneCard, recompute: int = 0, packed: bool = True, rows_from_file: bool = False) -> Trace:
    """Visits of each kind of micro-batch.

    Args:
        recompute: so many layers are computed again in the backward pass. rows_from_file: embeddings are looked up in
            the weight file.

    Raises:
        BackboneError: as build_backbone's.
    """
    model, names = _twin(card, rows_from_file)
    if recompute:
        recompute_first(model, recompute)
    root = FrozenRoot(model)
    hooks = _Hooks(root)
    modules = []
    for module in hooks.modules:
        modules.append(tuple(names[id(parameter)] for parameter in module.parameters(recurse=False)))
    visits = {kind: hooks.seen(partial(_run, root, kind, packed)) for kind in KINDS}
    return Trace(tuple(modules), visits)


def _run(root: FrozenRoot, kind: str, packed: bool) -> None:
    hidden = root.backbone.config.hidden_size
    if kind == "embed":
        root.embed_tokens(torch.zeros(2, dtype=torch.long))
        return
    prompt_LD = torch.zeros(LENGTH, hidden, requires_grad=kind != "forward")
    teacher_LD = torch.zeros(LENGTH, hidden) if kind == "train_with_teacher" else None
    with torch.set_grad_enabled(kind != "forward"):
        if packed:
            states, gradient = _packed(root, prompt_LD, teacher_LD)
        else:
            states, gradient = _plain(root, prompt_LD, teacher_LD)
    if kind != "forward":
        states.backward(gradient)


def _packed(root: FrozenRoot, prompt_LD: Tensor, teacher_LD: Tensor | None) -> tuple[Tensor, Tensor]:
    text, answer = sum(SAMPLE), SAMPLE[1]
    first = LENGTH + SAMPLE[0] - 1
    batch = PackedBatch(
        ids_T=torch.zeros(text, dtype=torch.long),
        before_N=torch.arange(first, first + answer),
        labels_N=torch.zeros(answer, dtype=torch.long),
        row_N=torch.zeros(answer, dtype=torch.long),
        weights_N=torch.ones(answer),
        rows_K=torch.zeros(1, dtype=torch.long),
        prefix=share_prefix([text], slots=[0], n_prompts=1, length=LENGTH),
    )
    student, teacher = _filled(prompt_LD), None
    if teacher_LD is not None:
        teacher = _filled(teacher_LD)
    states, _ = root.forward_packed(batch, fill=student, loss=lambda weight_VD, *_: weight_VD.sum(), teacher=teacher)
    return states, torch.zeros_like(states)


def _filled(prompt_LD: Tensor) -> Callable[[Tensor], Tensor]:
    """What puts a prompt before the text's embeddings."""
    return lambda tokens_TD: torch.cat([prompt_LD, tokens_TD])


def _plain(root: FrozenRoot, prompt_LD: Tensor, teacher_LD: Tensor | None) -> tuple[Tensor, Tensor]:
    text, answer = sum(SAMPLE), SAMPLE[1]
    batch = Batch(
        ids_BT=torch.zeros(1, text, dtype=torch.long),
        answer_BT=(torch.arange(text) >= SAMPLE[0])[None],
        labels_N=torch.zeros(answer, dtype=torch.long),
        sample_N=torch.zeros(answer, dtype=torch.long),
        rows_B=torch.zeros(1, dtype=torch.long),
        weights_B=torch.ones(1),
    )
    if teacher_LD is not None:
        teacher_LD = teacher_LD[None]
    student, _ = root.forward_padded(batch, prompt_LD[None], teacher_LD)
    return student.logits_NV, torch.zeros_like(student.logits_NV)


def twin_card(card: BackboneCard) -> BackboneCard:
    """A backbone of the card's family and depth, its widths as small as they may be, with seeded weights."""
    keys = _narrow(card).to_dict()
    return BackboneCard(
        name=f"{card.name}, narrow",
        random={k: v for k, v in keys.items() if v is not None},
        tokenizer="unused",
        dtype=card.dtype,
        dummy=True,
    )


def _narrow(card: BackboneCard) -> Any:
    """transformers' configuration of the twin."""
    config = copy.deepcopy(backbone_config(card))
    of_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = max(BLOCK, -(-of_head // BLOCK) * BLOCK)
    small = {
        "hidden_size": width,
        "intermediate_size": BLOCK,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": width,
        "vocab_size": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
    }
    for key, value in small.items():
        if hasattr(config, key):
            setattr(config, key, value)
    config.pad_token_id = None
    return config


def _twin(card: BackboneCard, rows_from_file: bool) -> tuple[Any, dict[int, str]]:
    """The narrow model, and the name of each parameter by its id.

    A head that shares the embedding's weight is called by the embedding's name, as in ``ModelFootprint.parameters``,
    whether the embedding itself is looked up in the file or not.
    """
    config = _narrow(card)
    with no_init_weights(), experts_as_released(config):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.tie_weights()
    model.requires_grad_(False).eval()
    keep_no_inputs(model, model.get_output_embeddings())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    names = {id(p): n for n, p in model.named_parameters()}
    if rows_from_file:
        read_rows_from(
            model, table_VD=torch.zeros(8, config.hidden_size), dtype=torch.float32, device=torch.device("cpu")
        )
    return model, names


@dataclass
class _Hooks:
    """DeepSpeed's hooks on every module under ``root``, which write down instead of fetching and releasing."""

    root: nn.Module
    modules: list[nn.Module] = field(default_factory=list)
    log: list[Visit] = field(default_factory=list)

    def __post_init__(self) -> None:
        for module in self.root.modules():
            self.modules.append(module)
            _Watched(len(self.modules) - 1, module, self.log.append)

    def seen(self, run: Callable[[], None]) -> tuple[Visit, ...]:
        self.log.clear()
        run()
        return tuple(self.log)


class _Watched:
    """One module. ``remaining``: its inputs whose gradient is still to come; at the last its backward pass is over."""

    def __init__(self, number: int, module: nn.Module, note: Callable[[Visit], None]):
        self.number, self.note, self.remaining = number, note, 0
        module.register_forward_pre_hook(lambda *_: self._visit(True))
        module.register_forward_hook(lambda *_: self._visit(False))
        before: Any = _Before.apply
        module.register_forward_hook(lambda _, __, output: _mapped(lambda t: before(t, self), output))
        module.register_forward_pre_hook(self._inputs)

    def _visit(self, enters: bool) -> None:
        again = torch._C._current_graph_task_id() != -1
        self.note(Visit(self.number, enters, True, again))

    def _inputs(self, _: nn.Module, inputs: tuple[Any, ...]) -> Any:
        self.remaining = 0
        return _mapped(lambda t: _After.apply(t, self), inputs)  # type: ignore[no-untyped-call]

    def backward_begins(self) -> None:
        # DeepSpeed counts outputs here, for graphs that are gone through twice; the twin's never are
        self.note(Visit(self.number, True, False))

    def backward_ends(self) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            self.note(Visit(self.number, False, False))


class _Before(torch.autograd.Function):
    """On a module's outputs: its backward pass begins when their gradient is there."""

    @staticmethod
    def forward(outputs: Tensor, watched: _Watched) -> Tensor:
        return outputs.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.watched = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.watched.backward_begins()
        return grads[0], None


class _After(torch.autograd.Function):
    """On a module's inputs: its backward pass is over when their gradients are there."""

    @staticmethod
    def forward(inputs: Tensor, watched: _Watched) -> Tensor:
        return inputs.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.watched = inputs[1]
        if inputs[0].requires_grad:
            ctx.watched.remaining += 1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.watched.backward_ends()
        return grads[0], None


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``function`` of every tensor in tuples, lists and dicts, as DeepSpeed's ``apply_to_tensors_only``."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(function, v) for v in value))
    if isinstance(value, tuple | list):
        return type(value)(_mapped(function, v) for v in value)
    if isinstance(value, dict):
        for key in value:
            value[key] = _mapped(function, value[key])
        return value
    if isinstance(value, Tensor):
        return function(value)
    return value
