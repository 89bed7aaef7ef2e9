"""Greedy decoding behind one soft prompt: the prompt's keys and values once for all sequences, each sequence's own in a
slot of a buffer.

A sequence enters by a packed row (``shared_prefix`` attends, the slots keep what it computed) and goes on token by
token: each step's queries see [prompt ; own slot]. Or it branches, once, into several continuations that see it and not
one another: the options of a choice. Slots are filled from the front, so that a step reads a stretch of the buffer and
copies nothing; one whose sequence has ended takes in the last one.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedConfig


@dataclass
class Layer:
    """prompt_k, prompt_v (G, L, d); k, v (W, G, T, d): W slots of T tokens, G key heads."""

    prompt_k: Tensor
    prompt_v: Tensor
    k: Tensor
    v: Tensor


@dataclass
class Slots:
    """Keys and values of up to ``width`` sequences behind one prompt.

    Args:
        length: L, of the prompt. tokens: T, the longest sequence with all that is generated.
    """

    config: PreTrainedConfig
    width: int
    length: int
    tokens: int
    device: torch.device
    dtype: torch.dtype
    layers: list[Layer] = field(default_factory=list)
    lengths_W: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """int64, on the CPU: tokens that each slot holds."""
    used: int = 0
    entering: tuple[Tensor, Tensor] | None = None
    """Of a packed row's text tokens: slot and place, int64 (T,). None: a step of the sequences that are here."""
    tree: tuple[int, int] | None = None
    """Branches of each sequence and tokens of a branch, while they are asked."""
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        c = self.config
        heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
        size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        of_prompt, of_slots = (heads, self.length, size), (self.width, heads, self.tokens, size)
        for _ in range(c.num_hidden_layers):
            layer = Layer(
                self._zeros(of_prompt), self._zeros(of_prompt), k=self._zeros(of_slots), v=self._zeros(of_slots)
            )
            self.layers.append(layer)
        self.lengths_W = torch.zeros(self.width, dtype=torch.long)

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape, device=self.device, dtype=self.dtype)

    def enter(self, sizes: list[int]) -> slice:
        """Take so many free slots for sequences of these sizes; the packed row that follows fills them."""
        new = slice(self.used, self.used + len(sizes))
        slot_T = torch.repeat_interleave(torch.arange(new.start, new.stop), torch.tensor(sizes))
        place_T = torch.cat([torch.arange(n) for n in sizes])
        self.entering = slot_T.to(self.device), place_T.to(self.device)
        self.lengths_W[new] = torch.tensor(sizes)
        self.used = new.stop
        return new

    def step(self) -> Tensor:
        """Begin a step of one more token a sequence. -> its position, int64 (used,)."""
        self.entering = self.tree = None
        self._masks.clear()
        positions_N = self.length + self.lengths_W[: self.used]
        self.lengths_W[: self.used] += 1
        return positions_N.to(self.device)

    def branch(self, branches: int, tokens: int) -> Tensor:
        """Begin branches of every sequence, which no slot keeps. -> positions of their tokens, int64 (used x
        branches x tokens,).
        """
        self.entering, self.tree = None, (branches, tokens)
        self._masks.clear()
        own = self.length + self.lengths_W[: self.used, None, None] + torch.arange(tokens)
        return own.expand(-1, branches, -1).flatten().to(self.device)

    def leave(self, slot: int) -> int | None:
        """Free a slot. -> the slot whose sequence moved into it, if one did."""
        self.used -= 1
        if slot == self.used:
            return None
        held = int(self.lengths_W[self.used])
        self.lengths_W[slot] = held
        for layer in self.layers:
            layer.k[slot, :, :held] = layer.k[self.used, :, :held]
            layer.v[slot, :, :held] = layer.v[self.used, :, :held]
        return self.used

    # ---- inside attention
    # ------------------------------------------------------------------------------------------------

    def keep(self, number: int, k_SGd: Tensor, v_SGd: Tensor) -> None:
        """A packed row's keys and values of one layer: the prompt's, then the text's."""
        assert self.entering is not None
        layer, (slot_T, place_T) = self.layers[number], self.entering
        layer.prompt_k.copy_(k_SGd[: self.length].transpose(0, 1))
        layer.prompt_v.copy_(v_SGd[: self.length].transpose(0, 1))
        layer.k[slot_T, :, place_T] = k_SGd[self.length :]
        layer.v[slot_T, :, place_T] = v_SGd[self.length :]

    def attend(
        self,
        number: int,
        q_NHd: Tensor,
        k_NGd: Tensor,
        v_NGd: Tensor,
        sinks: Tensor | None,
        window: int | None,
        scale: float,
    ) -> Tensor:
        """A step's queries to all that they see, their own token first written. -> (N, H, d)."""
        if self.tree is not None:
            return self._attend_branches(number, q_NHd, k_NGd, v_NGd, sinks, window, scale)
        layer, n = self.layers[number], self.used
        heads = k_NGd.shape[1]
        last_N = (self.lengths_W[:n] - 1).to(self.device)
        every = torch.arange(n, device=self.device)
        layer.k[every, :, last_N] = k_NGd
        layer.v[every, :, last_N] = v_NGd
        longest = int(self.lengths_W[:n].max())
        keys, values = layer.k[:n, :, :longest], layer.v[:n, :, :longest]
        q_NGgd = q_NHd.unflatten(1, (heads, -1))
        # the prompt's keys are every sequence's: one product for all of them
        q_GMd = q_NGgd.permute(1, 0, 2, 3).flatten(1, 2)
        before = (q_GMd @ layer.prompt_k.transpose(1, 2)).unflatten(1, (n, -1)).transpose(0, 1)
        own = q_NGgd @ keys.transpose(2, 3)
        scores = _wide(torch.cat([before, own], -1)) * scale + self._mask(window, longest)[:, None, None]
        if sinks is not None:
            scores = torch.cat([scores, sinks.float().view(1, heads, -1, 1).expand(n, -1, -1, 1)], -1)
        weights = scores.softmax(-1)[..., : self.length + longest].to(values.dtype)
        seen = weights[..., : self.length].transpose(0, 1).flatten(1, 2) @ layer.prompt_v
        out_NGgd = seen.unflatten(1, (n, -1)).transpose(0, 1) + weights[..., self.length :] @ values
        return out_NGgd.flatten(1, 2)  # type: ignore[no-any-return]

    def _attend_branches(
        self,
        number: int,
        q_NHd: Tensor,
        k_NGd: Tensor,
        v_NGd: Tensor,
        sinks: Tensor | None,
        window: int | None,
        scale: float,
    ) -> Tensor:
        """A branch's token sees prompt, sequence, and the branch up to itself. N = (slot, branch, token)."""
        assert self.tree is not None
        layer, n, (branches, tokens) = self.layers[number], self.used, self.tree
        heads, longest = k_NGd.shape[1], int(self.lengths_W[:n].max())
        keys, values = layer.k[:n, :, :longest], layer.v[:n, :, :longest]
        q_BGord = (
            q_NHd.unflatten(1, (heads, -1)).unflatten(0, (n, branches, tokens)).permute(0, 3, 1, 2, 4, 5)
        )  # (B, G, O, R, g, d)
        k_BGOrd, v_BGOrd = (
            x.unflatten(0, (n, branches, tokens)).permute(0, 3, 1, 2, 4) for x in (k_NGd, v_NGd)
        )  # (B, G, O, R, d)
        flat = q_BGord.flatten(2, 4)  # (B, G, O R g, d)
        before = (
            (flat.transpose(0, 1).flatten(1, 2) @ layer.prompt_k.transpose(1, 2)).unflatten(1, (n, -1)).transpose(0, 1)
        )
        own = flat @ keys.transpose(2, 3)
        within = (q_BGord.flatten(3, 4) @ k_BGOrd.transpose(3, 4)).flatten(2, 3)  # (B, G, O R g, R)
        groups = q_BGord.shape[4]
        mask_BRK = self._branch_mask(window, longest, tokens)
        mask = mask_BRK[:, None, None, :, None].expand(-1, 1, branches, -1, groups, -1).flatten(2, 4)
        scores = _wide(torch.cat([before, own, within], -1)) * scale + mask
        if sinks is not None:
            sink = sinks.float().view(1, heads, 1, groups).expand(n, -1, branches * tokens, -1).flatten(2)[..., None]
            scores = torch.cat([scores, sink], -1)
        weights = scores.softmax(-1)[..., : self.length + longest + tokens].to(values.dtype)
        seen = (
            (weights[..., : self.length].transpose(0, 1).flatten(1, 2) @ layer.prompt_v)
            .unflatten(1, (n, -1))
            .transpose(0, 1)
        )
        seen = seen + weights[..., self.length : self.length + longest] @ values
        inner = weights[..., self.length + longest :].unflatten(2, (branches, -1)) @ v_BGOrd  # (B, G, O, R g, d)
        out = (seen + inner.flatten(2, 3)).unflatten(2, (branches, tokens, groups))  # (B, G, O, R, g, d)
        return out.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(0, 2)  # type: ignore[no-any-return]

    def _branch_mask(self, window: int | None, longest: int, tokens: int) -> Tensor:
        """fp32 (B, R, L + longest + R)."""
        length_B11 = self.lengths_W[: self.used, None, None].to(self.device)
        r = torch.arange(tokens, device=self.device)
        at_BR1 = self.length + length_B11 + r[:, None]
        places = torch.arange(longest, device=self.device)
        key = torch.cat([torch.arange(self.length, device=self.device), self.length + places]).expand(
            self.used, tokens, -1
        )
        hidden = key >= self.length + length_B11
        inside = (self.length + length_B11 + r).expand(-1, tokens, -1)
        key, hidden = torch.cat([key, inside], -1), torch.cat([hidden, (r > r[:, None]).expand(self.used, -1, -1)], -1)
        if window is not None:
            hidden = hidden | (key <= at_BR1 - window)
        return torch.zeros(hidden.shape, device=self.device).masked_fill_(hidden, -torch.inf)

    def _mask(self, window: int | None, longest: int) -> Tensor:
        """fp32 (N, L + longest), added to scores: what comes after a sequence's last token, or lies outside its
        window, is hidden.
        """
        if window not in self._masks:
            at_N1 = (self.length + self.lengths_W[: self.used] - 1).to(self.device)[:, None]
            key = torch.arange(self.length + longest, device=self.device)
            hidden = key > at_N1
            if window is not None:
                hidden |= key <= at_N1 - window
            self._masks[window] = torch.zeros(hidden.shape, device=self.device).masked_fill_(hidden, -torch.inf)
        return self._masks[window]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
