"""Softmax attention in windows by PyTorch's memory-efficient kernel, for CUDA.

Windows with the same mask stand in a row, and one call of the kernel serves them: the
bias is the same for all, so no window needs one of its own in memory. The kernel reads
query, key and value where the projection wrote them.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .pieces import sum_dtype
from .window_attention import split_heads

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
        bias (Tensor): For each of ``counts``, (groups, num_heads, N, N), its rows at
            multiples of :data:`position_bias.ALIGNMENT` items.
        counts (tuple[int, ...]): How many windows in a row have the same bias.
        scale (float): Factor of the logits.
    """

    rows: Tensor
    key: Tensor | None
    bias: Tensor
    counts: tuple[int, ...]
    scale: float

    def plain(self) -> Tensor:
        query, key, value = self.operands()
        counts = torch.tensor(self.counts, device=query.device)
        logits = (query * self.scale) @ key.transpose(2, 3)
        bias = self.bias.repeat_interleave(counts, dim=0)
        out = (logits + bias).softmax(dim=-1) @ value
        return out.transpose(1, 2).flatten(2)

    def forward(self) -> tuple[Tensor, ...]:
        """The result, which is kept too, and what the kernel wants for each group."""
        outs, kept = [], []
        for operands in self.groups():
            out, *more = efficient_attention(*operands, True, scale=self.scale)
            outs.append(out.transpose(1, 2))  # (w, N, num_heads, head_dims)
            kept += more
        result = joined(outs).flatten(2)
        return result, result, *kept

    def backward(
        self, grad: Tensor, needed: tuple[bool, ...], out: Tensor, *kept: Tensor
    ) -> tuple[Tensor | None, ...]:
        rows, key, bias, counts, scale = self
        heads = rows.shape[3]
        grads = split_heads(grad, heads).split(counts)
        outs = split_heads(out, heads).split(counts)
        grad_rows, of_keys, of_biases = torch.empty_like(rows), [], []
        places = grad_rows.split(counts)
        for number, operands in enumerate(self.groups()):
            *parts, of_bias = efficient_attention_backward(
                *(grads[number], *operands, outs[number]),
                *(*kept[3 * number : 3 * number + 3], 0.0, [True] * 4),
                scale=scale,
            )
            parts = [part.transpose(1, 2) for part in parts]
            if key is not None:
                of_keys.append(parts[1])
            if rows.shape[2] == 2:
                del parts[1]
            torch.stack(parts, dim=2, out=places[number])
            of_biases.append(of_bias.sum(dim=0, dtype=sum_dtype(bias)))
        grad_key = None if key is None else joined(of_keys).flatten(2)
        return grad_rows, grad_key, torch.stack(of_biases)

    def operands(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (W, num_heads, N, head_dims)."""
        query, *keys, value = self.rows.transpose(1, 3).unbind(2)
        if self.key is not None:
            keys.append(split_heads(self.key, self.rows.shape[3]))
        return query, sum(keys[1:], keys[0]), value

    def groups(self) -> Iterator[tuple[Tensor, ...]]:
        """Query, key, value and bias of windows with the same bias."""
        parts = (part.split(self.counts) for part in self.operands())
        for *operands, bias in zip(*parts, self.bias):
            yield *operands, bias.expand(len(operands[0]), -1, -1, -1)


def joined(parts: list[Tensor]) -> Tensor:
    """Parts in a row; one part alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
