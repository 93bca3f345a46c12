"""Softmax attention in windows by PyTorch's memory-efficient kernel, for CUDA.

One call of the kernel serves all windows; only those of a shifted grid have a bias of
their own in memory, for the time of the call. The kernel reads query, key and value
where the projection wrote them.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import triton_choice
from .position_bias import Pairs, PositionBias
from .window_attention import split_heads
from .window_grid import WindowGrid

efficient_attention = torch.ops.aten._scaled_dot_product_efficient_attention
efficient_attention_backward = (
    torch.ops.aten._scaled_dot_product_efficient_attention_backward
)
#: Windows that the kernel takes: the limit of a grid of blocks in CUDA.
MOST_WINDOWS = 2**16 - 1


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch has this kernel for a GPU, and the user did not switch it off."""
    least = (8, 0) if dtype == torch.bfloat16 else (5, 0)
    return (
        dtype != torch.float64
        and torch.backends.cuda.mem_efficient_sdp_enabled()
        and capability(device) >= least
    )


@lru_cache(maxsize=16)
def capability(device: torch.device) -> tuple[int, int]:
    """Of an NVIDIA GPU; of others (0, 0), which have kernels of their own."""
    if torch.version.hip is not None:
        return (0, 0)
    return torch.cuda.get_device_capability(device)


class FusedWindowAttention(NamedTuple):
    """softmax(scale q k^T + bias) v within windows, (W, N, C).

    Args:
        rows (Tensor): Query, key and value, (W, N, 3, num_heads, head_dims), or only
            query and value, (W, N, 2, num_heads, head_dims).
        key (Tensor, optional): Key of the windows, (W, N, C), added to that in ``rows``
            if there is one, and needed if there is none.
        table (Tensor): As of :class:`PositionBias`.
        pairs (Pairs): Likewise.
        shifted (bool): Likewise.
        grid (WindowGrid): The windows.
        scale (float): Factor of the logits.
    """

    rows: Tensor
    key: Tensor | None
    table: Tensor
    pairs: Pairs
    shifted: bool
    grid: WindowGrid
    scale: float

    def plain(self) -> Tensor:
        query, key, value = self.operands()
        bias = self.position_bias().plain()[self.grid.groups]
        out = ((query * self.scale) @ key.transpose(2, 3) + bias).softmax(dim=-1)
        return (out @ value).transpose(1, 2).flatten(2)

    def forward(self) -> tuple[Tensor, ...]:
        """The result, which is kept too, the bias, and what the kernel wants."""
        bias = self.position_bias().padded()
        operands = *self.operands(), self.bias_of_windows(bias)
        out, *kept = efficient_attention(*operands, True, scale=self.scale)
        result = out.transpose(1, 2).flatten(2)
        return result, result, bias, *kept

    def backward(
        self,
        grad: Tensor,
        needed: tuple[bool, ...],
        out: Tensor,
        bias: Tensor,
        *kept: Tensor,
    ) -> tuple[Tensor | None, ...]:
        heads = self.rows.shape[3]
        *parts, of_bias = efficient_attention_backward(
            *(split_heads(grad, heads), *self.operands(), self.bias_of_windows(bias)),
            *(split_heads(out, heads), *kept, 0.0, [True] * 4),
            scale=self.scale,
        )
        parts = [part.transpose(1, 2) for part in parts]
        of_key = None if self.key is None else parts[1].flatten(2)
        if self.rows.shape[2] == 2:
            del parts[1]
        of_table = self.position_bias().backward(of_bias, ())
        return torch.stack(parts, dim=2), of_key, *of_table

    def operands(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (W, num_heads, N, head_dims)."""
        query, *keys, value = self.rows.transpose(1, 3).unbind(2)
        if self.key is not None:
            keys.append(split_heads(self.key, self.rows.shape[3]))
        return query, sum(keys[1:], keys[0]), value

    def position_bias(self) -> PositionBias:
        kind, masks = PositionBias, self.grid.masks
        if triton_choice.runs(self.table, masks):
            # here, as Triton need not be installed
            from .triton_bias import TritonBias as kind

        return kind(self.table, self.pairs, masks, self.shifted)

    def bias_of_windows(self, bias: Tensor) -> Tensor:
        """The bias for each mask, (groups, num_heads, N, A), as that of each window."""
        if len(bias) == 1:
            bias = bias.expand(len(self.rows), -1, -1, -1)
        else:
            bias = bias.index_select(0, self.grid.groups)
        return bias[..., : self.rows.shape[1]]
