"""The per-layer inputs of a slice, read from the parent's tables without a copy."""

import torch
from torch import Tensor, nn

from matformer_lab.live.devices import has_own_memory, send


class KeptPerLayerEmbedding(nn.Module):
    """`embed_tokens_per_layer` of a slice, read from the parent's table.

    Input: token ids, any shape S. Output: (*S, kept layers * hidden_size_per_layer_input), scaled
    as transformers' `Gemma3nTextScaledWordEmbedding` scales. The table keeps its stored dtype and
    place (memory-mapped on the host); only looked-up rows are cast and moved.
    """

    def __init__(
        self, table: Tensor, kept: tuple[int, ...], size: int, dtype: torch.dtype, device: str
    ) -> None:
        """`table`: (vocab, parent layers * size)."""
        super().__init__()
        self.table = table  # a plain attribute: `.to()` must not move or copy gigabytes
        self.kept = kept
        self.size = size
        self.dtype = dtype
        self.device = device
        self.scale = torch.tensor(size**0.5, dtype=dtype, device=device)
        every_layer = len(kept) * size == table.shape[1]
        self._index = None if every_layer else torch.tensor(kept)

    def forward(self, input_ids: Tensor) -> Tensor:
        rows = self.look_up(input_ids)
        if self._index is not None:
            rows = rows.index_select(-2, self._index)
        return send(rows.flatten(-2), self.device).to(self.dtype) * self.scale

    def look_up(self, input_ids: Tensor) -> Tensor:
        """(*S, parent layers, size) the rows of all the parent's layers, unscaled.

        They lie where the table does, in its dtype; for an accelerator in pinned memory, which
        PyTorch uses again and again: to get pages anew takes longer than to fill them.
        """
        ids, place = input_ids.to(self.table.device).flatten(), self.table.device
        rows = torch.empty(
            (len(ids), self.table.shape[1]),
            dtype=self.table.dtype,
            device=place,
            pin_memory=place.type == "cpu" and has_own_memory(self.device),
        )
        torch.index_select(self.table, 0, ids, out=rows)
        return rows.view(*input_ids.shape, -1, self.size)


class KeptPerLayerProjection(nn.Linear):
    """`per_layer_model_projection` of a slice that skips layers; its weight is the parent's, whole.

    The kept rows are put together for the time of a call. Kept for good they would cost 31 MB for
    each such slice of E4B, so that memory would grow with the number of slices.
    """

    def __init__(self, weight: Tensor, ranges: tuple[tuple[int, int], ...]) -> None:
        """`weight`: (parent layers * size, hidden_size); `ranges`: (start, stop) of kept rows."""
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._ranges = ranges

    def forward(self, embeddings: Tensor) -> Tensor:
        kept = torch.cat([self.weight[start:stop] for start, stop in self._ranges])
        return nn.functional.linear(embeddings, kept)
