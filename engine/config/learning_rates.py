"""Learning rates of soft prompts are multiples of the embeddings' RMS; those of factors and of LoRA stay as they are.

A prompt lives among the backbone's input embeddings, whose size differs between backbones: an RMS of 0.466 for the
pocket Llama, 0.136 for SmolLM2-135M. A step of AdamW moves a number by about its learning rate, so the same absolute
rate is three times larger for the second. Factors multiply the metaprompt: near one, they are free of that scale.
Adafactor calls a rate in units of the parameter's RMS a relative one (arXiv 1804.04235, section 8); the keys are named
after it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.methods import DECOMPOSED, METHODS
from engine.config.schema import AdaptConfig, RunConfig

if TYPE_CHECKING:  # configurations are read without torch
    from torch import Tensor

SAMPLED = 8192  # vocabulary entries that the RMS is taken over
DIGITS = 4  # of the RMS: a rate must not depend on the order in which a device adds up

# keys of absolute rates, which nothing reads any more
REPLACED = {
    "teach.lr": "teach.relative_lr",
    "distill.lr_shared": "distill.relative_lr_shared",
    "adapt.lr_shared": "adapt.relative_lr_shared",
    "adapt.lr_prompt": "adapt.relative_lr_prompt",
    "tune.prompt_tuning": "lr_sweep.relative_lr_prompt",
}


@dataclass(frozen=True)
class Rate:
    """Peak learning rates of a row.

    Args:
        own: of the factors or of LoRA; of a whole prompt in multiples of the embeddings' RMS.
        shared: of the row's own copy of the metaprompt, in the same multiples; None keeps the configuration's ratio to
            ``own``.
    """

    own: float
    shared: float | None = None

    def __str__(self) -> str:
        return f"{self.own:g}" if self.shared is None else f"{self.own:g} and {self.shared:g}"

    def plain(self) -> Any:
        """As it stands in JSON: a number, or both under the names of their keys."""
        return self.own if self.shared is None else {"lr_task": self.own, "relative_lr_shared": self.shared}

    @classmethod
    def of(cls, plain: Any) -> "Rate":
        """The inverse of ``plain``."""
        return cls(plain["lr_task"], plain["relative_lr_shared"]) if isinstance(plain, Mapping) else cls(plain)


def tried_rates(c: RunConfig, method: str) -> list[Rate]:
    """The rates that a sweep tries of a method."""
    t = c.lr_sweep
    own: list[float] = getattr(t, METHODS[method].sweep)
    shared = t.relative_lr_shared if method in DECOMPOSED and c.adapt.train == "all" else []
    if not shared:
        return [Rate(rate) for rate in own]
    return [Rate(rate, of_prompt) for rate in own or [c.adapt.lr_task] for of_prompt in shared]


def own_rate(c: RunConfig, method: str) -> float:
    """The configuration's rate of a method's own numbers."""
    return float(getattr(c.adapt, METHODS[method].rate))


def shared_rate(a: AdaptConfig, rate: Rate) -> float:
    """Of a row's own P*, in multiples of the embeddings' RMS."""
    if rate.shared is not None:
        return rate.shared
    return rate.own * a.relative_lr_shared / a.lr_task if a.lr_task else a.relative_lr_shared


def rms_of(embed: Callable[["Tensor"], "Tensor"], vocabulary: int) -> float:
    """Root mean square of input embeddings, over at most ``SAMPLED`` entries spread evenly over the vocabulary, to four
    digits.

    Args:
        embed: int64 (n,) -> (n, D). vocabulary: the tokenizer's number of entries; a table may have more rows, which
            are nobody's.

    Raises:
        ValueError: it is zero or not finite.
    """
    import torch

    ids = torch.linspace(0, vocabulary - 1, min(SAMPLED, vocabulary), dtype=torch.float64).round().long()
    found = embed(ids).double().square().mean().sqrt().item()
    if not 0 < found < float("inf"):
        raise ValueError(f"the RMS of the input embeddings is {found:g}")
    return float(f"{found:.{DIGITS}g}")


def replaced_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of absolute rates that stand in a configuration -> their values."""
    out = {}
    for old in REPLACED:
        section, _, leaf = old.partition(".")
        node = content.get(section)
        if isinstance(node, Mapping) and leaf in node:
            out[old] = node[leaf]
    return out


def refusal(old: str, value: Any, rms: float | None, backbone: str) -> str:
    """What to write in place of an absolute rate.

    Args:
        rms: of the backbone's embeddings; None where it cannot be read here.
    """
    new = REPLACED[old]
    values = value if isinstance(value, list) else [value]
    numbers = [_number(v) for v in values]
    if rms is None or None in numbers:
        return (
            f"{old}: was renamed to {new}, in multiples of the RMS of the backbone's input embeddings; divide it by "
            "that RMS"
        )
    relative = ", ".join(f"{n / rms:.2g}" for n in numbers if n is not None)
    if isinstance(value, list):
        relative = f"[{relative}]"
    return (
        f"{old}: was renamed to {new}, in multiples of the RMS of the backbone's input embeddings ({rms:g} for "
        f"{backbone}); write {new}: {relative}"
    )


def rms_of_card(path: str) -> float | None:
    """The RMS as far as a card and its files tell it; None where they do not, which is no error here."""
    from backbones import BackboneError, load_backbone_card, load_tokenizer
    from backbones.loading import SafetensorsSource

    try:
        card = load_backbone_card(path)
        if card.dummy or card.random:
            return None
        source = SafetensorsSource(Path(card.path))
        table = source.mapped(_table_of(source.tensors()))
        entries = min(len(table), load_tokenizer(card.tokenizer, card.trust_remote_code).vocab_size)
        return rms_of(lambda ids: table.index_select(0, ids), entries)
    except (BackboneError, OSError, ValueError, LookupError):
        return None


def _table_of(names: Sequence[str] | Mapping[str, Any]) -> str:
    """The name of the input embeddings in a file: of every family that is known here."""
    ends = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")
    return next(name for end in ends for name in names if name.endswith(end))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
