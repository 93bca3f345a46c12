"""Softmax attention in many small windows, some windows at a time. (Ours.)

PyTorch's scaled_dot_product_attention writes all logits to memory when the bias needs a
gradient on a CPU. Here those of a piece of windows stay in the cache, and the backward
pass computes them again.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from ..keys.kernels.common import autocast, is_traced, pieces

softmax_backward = torch.ops.aten._softmax_backward_data


def window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    counts: Sequence[int],
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale q k^T + bias) v within windows.

    Args:
        query (Tensor): (W, num_heads, N, head_dims).
        key (Tensor): As the query.
        value (Tensor): As the query.
        bias (Tensor): (groups, num_heads, N, N).
        counts (Sequence[int]): How many windows in a row each group has, summing to W.
        scale (float): Factor of the logits.
        dropout (float): Of the attention weights. Defaults to 0.

    Returns:
        Tensor: (W, N, num_heads * head_dims).
    """
    query, key, value, bias = autocast(query, key, value, bias)
    if query.device.type == 'cpu' and not dropout and not is_traced():
        return WindowAttention.apply(query, key, value, bias, tuple(counts), scale)
    groups = zip(*(part.split(list(counts)) for part in (query, key, value)), bias)
    outs = [
        F.scaled_dot_product_attention(
            *group, attn_mask=aligned(mask)[None], dropout_p=dropout, scale=scale
        ).transpose(1, 2)
        for *group, mask in groups
    ]
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    return out.flatten(2)


def aligned(bias: Tensor) -> Tensor:
    """The bias with rows that start at multiples of 8, as fused CUDA kernels want."""
    length = bias.shape[-1]
    if bias.device.type != 'cuda' or length % 8 == 0:
        return bias
    return F.pad(bias, (0, -length % 8))[..., :length]


class WindowAttention(Function):
    """See :func:`window_attention`; keeps query, key and value only."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor,
        counts: tuple[int, ...],
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, bias)
        ctx.counts, ctx.scale = counts, scale
        windows, heads, tokens, dims = query.shape
        out = query.new_empty(windows, tokens, heads, dims)
        with torch.autocast('cpu', enabled=False):
            for group, piece in window_pieces(query, counts):
                q, k, v = query[piece], key[piece], value[piece]
                weights = attention_weights(q, k, bias[group], scale)
                out[piece] = (weights @ v).transpose(1, 2)
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        grad = grad.unflatten(2, (query.shape[1], -1)).transpose(1, 2)
        grads = [like_tokens(part) for part in (query, key, value)]
        grad_bias = torch.zeros_like(bias)
        for group, piece in window_pieces(query, ctx.counts):
            q, k, v, g = query[piece], key[piece], value[piece], grad[piece]
            weights = attention_weights(q, k, bias[group], ctx.scale)
            grads[2][piece] = weights.transpose(2, 3) @ g
            inner = softmax_backward(g @ v.transpose(2, 3), weights, 3, weights.dtype)
            grad_bias[group] += inner.sum(dim=0)
            inner.mul_(ctx.scale)
            grads[0][piece] = inner @ k
            grads[1][piece] = inner.transpose(2, 3) @ q
        return *grads, grad_bias, None, None


def attention_weights(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T + bias), (w, num_heads, N, N)."""
    logits = (q @ k.transpose(2, 3)).mul_(scale).add_(bias)
    return torch.softmax(logits, dim=-1, out=logits)


def like_tokens(x: Tensor) -> Tensor:
    """Empty (W, num_heads, N, head_dims) in the order of tokens, as projections are."""
    return torch.empty_like(
        x.transpose(1, 2), memory_format=torch.contiguous_format
    ).transpose(1, 2)


def window_pieces(query: Tensor, counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Pieces of windows with one bias whose logits fit a buffer, with their group."""
    bytes_each = query.shape[1] * query.shape[2] ** 2 * query.element_size()
    end = 0
    for group, count in enumerate(counts):
        start, end = end, end + count
        for piece in pieces(start, end, bytes_each, query.device):
            yield group, piece
