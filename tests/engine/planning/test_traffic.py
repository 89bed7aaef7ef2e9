"""The bytes that ``plan`` takes a device to read and write besides its products, beside those that torch's
dispatcher sees.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backbones import BackboneCard
from backbones.tracing.sizes import measure_footprint
from engine.data.sample import Sample, weight_answer_tokens
from engine.distributed.zero3 import ShardedBackbone
from engine.planning.cost_model import TOUCHED
from engine.training.forward_backward import ForwardBackward, LossWeights
from prompt_modules import SoftPromptBank

TASKS, LENGTH, SAMPLES, CONTEXT, ANSWER = 4, 100, 10, 54, 6
COMMON = {"hidden_size": 256, "num_attention_heads": 8, "vocab_size": 500, "max_position_embeddings": 4096}
BACKBONES = {
    "llama": COMMON
    | {"model_type": "llama", "intermediate_size": 704, "num_hidden_layers": 4, "num_key_value_heads": 8},
    "llama, grouped queries": COMMON
    | {"model_type": "llama", "intermediate_size": 896, "num_hidden_layers": 4, "num_key_value_heads": 2},
    "qwen3": COMMON
    | {
        "model_type": "qwen3",
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_key_value_heads": 8,
        "head_dim": 32,
    },
    "gpt_oss": COMMON
    | {
        "model_type": "gpt_oss",
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
}
PRODUCTS = ("mm", "addmm", "bmm", "_grouped_mm")
NO_MEMORY = ("_unsafe_view", "detach", "empty", "empty_like", "new_empty")
MAKES = ("zeros_like", "new_zeros", "zeros", "fill_", "zero_", "full")  # read nothing
LOOKS_UP = (
    "index_select",
    "index",
    "embedding",
    "gather",
    "select_backward",
    "slice_backward",
)  # read no more than they write


class Traffic(TorchDispatchMode):
    """Bytes of the inputs and outputs of every operator that is neither a view, nor a product, nor attention."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        out = operator(*arguments, **(keywords or {}))
        name = operator._schema.name.split("::")[1]
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in operator._schema.returns)
        if not views and name not in NO_MEMORY + PRODUCTS and "attention" not in name:
            read, written = (
                sum(t.numel() * t.element_size() for t in tree_leaves(x) if isinstance(t, Tensor))
                for x in ((arguments, keywords), out)
            )
            self.bytes[name] += written + (0 if name in MAKES else written if name in LOOKS_UP else read)
        return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BACKBONES)
def test_what_a_forward_and_a_backward_pass_touch(name: str, dtype: str) -> None:
    """Within a third: it hangs on how wide the inner layer is and on how many prompts a row holds."""
    card = BackboneCard(name=name, random=dict(BACKBONES[name]), tokenizer="unused", dtype=dtype)
    sizes = measure_footprint(card)
    backbone = ShardedBackbone(card, "", torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    bank = SoftPromptBank(0.02 * torch.randn(TASKS, LENGTH, sizes.hidden, generator=generator))

    def draw(n: int) -> list[int]:
        return torch.randint(3, 500, (n,), generator=generator).tolist()  # type: ignore[no-any-return]

    samples = weight_answer_tokens([Sample(draw(CONTEXT), draw(ANSWER), row=i % TASKS) for i in range(SAMPLES)])
    forward_backward = ForwardBackward(backbone, True, 2000, 0, 1)
    (group,) = forward_backward.micro_batches(samples, bank)
    with Traffic() as forward, torch.no_grad():
        forward_backward.cross_entropies(group, bank)
    with Traffic() as whole:
        forward_backward.train(group, bank, weights=LossWeights(), teachers=None, cached=None)
    kept = sizes.saved_per_token * (TASKS * LENGTH + SAMPLES * (CONTEXT + ANSWER)) * len(sizes.layers)
    found = forward.bytes.total() / kept, (whole.bytes.total() - forward.bytes.total()) / kept
    assert found == pytest.approx(TOUCHED, rel=0.34), found
