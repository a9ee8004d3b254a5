"""The per-layer inputs of a slice, read from the parent's tables without copying them."""

import torch
from torch import Tensor, nn

from matformer_lab.common.spans import Span
from matformer_lab.live.devices import has_own_memory, send
from matformer_lab.live.mapped_weights import check_rows_readable


class KeptPerLayerEmbedding(nn.Module):
    """`embed_tokens_per_layer` of a slice, read from the parent's table.

    The table keeps its stored dtype and stays where it is (memory-mapped on the host); only the
    rows that are looked up are cast and moved. Below, `size` is `hidden_size_per_layer_input`.

    Attributes:
        table: The parent's table, [vocab, parent layers * size].
        kept: Indices of the kept layers in the parent.
        size: Columns of the table per layer.
        dtype: Dtype of the output.
        device: Device of the output.
        scale: sqrt(size), a scalar: the factor of transformers' `Gemma3nTextScaledWordEmbedding`.
    """

    def __init__(
        self, table: Tensor, kept: tuple[int, ...], size: int, dtype: torch.dtype, device: str
    ) -> None:
        super().__init__()
        self.table = table  # neither parameter nor buffer, so that `.to()` does not copy gigabytes
        self.kept = kept
        self.size = size
        self.dtype = dtype
        self.device = device
        self.scale = torch.tensor(size**0.5, dtype=dtype, device=device)
        every_layer = len(kept) * size == table.shape[1]
        self._index = None if every_layer else torch.tensor(kept)

    def forward(self, input_ids: Tensor) -> Tensor:
        """The scaled inputs of the kept layers.

        Args:
            input_ids: Token ids of any shape [*S].

        Returns:
            [*S, kept layers * size] in `dtype` on `device`.
        """
        rows = self.look_up(input_ids)  # [*S, parent layers, size]
        if self._index is not None:
            rows = rows.index_select(-2, self._index)
        return send(rows.flatten(-2), self.device).to(self.dtype) * self.scale

    def look_up(self, input_ids: Tensor) -> Tensor:
        """The unscaled table rows of some tokens, for all of the parent's layers.

        For an accelerator the result is in pinned memory, which PyTorch reuses: allocating new
        pages takes longer than filling them.

        Args:
            input_ids: Token ids of any shape [*S].

        Returns:
            [*S, parent layers, size] in the table's dtype, on the table's device.

        Raises:
            InputError: The rows cannot be read from the disk.
        """
        check_rows_readable(self.table, input_ids)
        home = self.table.device
        ids = input_ids.to(home).flatten()
        rows = torch.empty(
            (len(ids), self.table.shape[1]),
            dtype=self.table.dtype,
            device=home,
            pin_memory=home.type == "cpu" and has_own_memory(self.device),
        )
        torch.index_select(self.table, 0, ids, out=rows)
        return rows.view(*input_ids.shape, -1, self.size)


class KeptPerLayerProjection(nn.Linear):
    """`per_layer_model_projection` of a slice that skips layers, with the parent's whole weight.

    The kept rows are gathered on every call. Storing them would cost 31 MB for each such slice of
    E4B, so that memory would grow with the number of slices.
    """

    def __init__(self, weight: Tensor, ranges: tuple[Span, ...]) -> None:
        """Share the parent's weight.

        Args:
            weight: [parent layers * size, hidden_size], not copied.
            ranges: The kept rows.
        """
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        self._ranges = ranges

    def forward(self, embeddings: Tensor) -> Tensor:
        """[*S, hidden_size] to [*S, kept layers * size]."""
        kept = torch.cat([self.weight[start:stop] for start, stop in self._ranges])
        return nn.functional.linear(embeddings, kept.to(embeddings.dtype))
