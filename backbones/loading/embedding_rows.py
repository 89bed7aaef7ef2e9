"""Embedding rows from the weight file: a sharded backbone gathers no table of V rows to look a few thousand up.

gpt-oss's table is 1.2 of its 13.8 GB. Ranks of a node share the file's pages; nothing of it is a parameter any more, so
nothing is sharded, offloaded or gathered. The rows are the same to the bit.
"""

import torch
from torch import Tensor, nn

from backbones.attention import to_device


class RowsFromFile(nn.Module):
    """Takes the place of ``nn.Embedding``: int64 ids of any shape -> (…, D) in ``dtype`` on ``device``. No gradient
    reaches it.

    Args:
        table_VD: the weight, memory-mapped.
    """

    def __init__(self, table_VD: Tensor, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self._table_VD, self._dtype, self._device = table_VD, dtype, device  # a plain attribute, which no .to() follows

    @property
    def numbers(self) -> int:
        return self._table_VD.numel()

    def forward(self, ids: Tensor) -> Tensor:
        wanted, place = ids.cpu().flatten().unique(return_inverse=True)
        rows_UD = self._table_VD.index_select(0, wanted).to(self._dtype)
        rows_ND = to_device(rows_UD, self._device).index_select(0, to_device(place, self._device))
        return rows_ND.view(*ids.shape, -1)


def looks_up_plainly(table: nn.Module) -> bool:
    """Whether a table gives out its rows as they are, as ``RowsFromFile`` does.

    Families that scale or norm embeddings within the table (BioGPT, Gemma) have a forward of their own: such a table
    stays where it is. ``padding_idx`` and ``scale_grad_by_freq`` concern gradients alone, and there are none here.
    """
    if not isinstance(table, nn.Embedding) or "forward" in vars(table):
        return False
    return type(table).forward is nn.Embedding.forward and table.max_norm is None


def read_rows_from(model: nn.Module, table_VD: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Let the model's input embedding read ``table_VD``; its own table is dropped, but for a head that shares it."""
    model.set_input_embeddings(RowsFromFile(table_VD, dtype, device))  # type: ignore[operator]
