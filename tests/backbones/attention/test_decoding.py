"""Masks of sequences that branch, against what each token may see, written out key by key. What the attention makes of
them: tests/engine/evaluation/test_generation.py.
"""

import pytest
import torch
from transformers import LlamaConfig

from backbones.attention.decoding import Slots

LENGTH, SIZES, TOKENS = 3, [5, 2], 4  # of the prompt, the sequences and a branch


def is_seen(size: int, token: int, key: int, window: int | None) -> bool:
    """Whether a branch's token sees a key. Keys: the prompt, the slot up to the longest sequence, the branch."""
    at, own = LENGTH + size + token, LENGTH + max(SIZES)
    place = key
    if key >= own:
        place = LENGTH + size + key - own
        exists = place <= at
    else:
        exists = place < LENGTH + size
    return exists and (window is None or at - place < window)


@pytest.mark.parametrize("window", [None, 1, 3, 6, 20])
def test_a_branch_sees_prompt_sequence_and_itself_within_its_window(window: int | None) -> None:
    config = LlamaConfig(hidden_size=8, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1)
    slots = Slots(config, width=3, length=LENGTH, tokens=max(SIZES), device=torch.device("cpu"), dtype=torch.float32)
    slots.enter(SIZES)
    slots.branch(branches=2, tokens=TOKENS)
    found = slots._branch_mask(window, max(SIZES), TOKENS)
    assert found.shape == (len(SIZES), TOKENS, LENGTH + max(SIZES) + TOKENS)
    for b, size in enumerate(SIZES):
        for token in range(TOKENS):
            for key, added in enumerate(found[b, token].tolist()):
                assert added == (0.0 if is_seen(size, token, key, window) else -torch.inf), (b, token, key)
