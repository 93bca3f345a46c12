"""PyTorch's fused attention, and its two products where operations are counted."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale q k^T + bias) v.

    By ``scaled_dot_product_attention``, as in the stock ViT. The FLOP counters of
    mmengine and fvcore read a trace of ``torch.jit``, and count nothing for that
    operator: such a trace gets the two products.

    Args:
        query (Tensor): (B, num_heads, N, head_dims).
        key (Tensor): As the query.
        value (Tensor): As the query.
        bias (Tensor, optional): Broadcast to (B, num_heads, N, N).
        scale (float): Factor of the logits.
        dropout (float): Of the attention weights. Defaults to 0.

    Returns:
        Tensor: (B, num_heads, N, head_dims).
    """
    if not torch.jit.is_tracing():
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale
        )
    logits = scale * query @ key.transpose(2, 3)
    weights = (logits if bias is None else logits + bias).softmax(dim=-1)
    return F.dropout(weights, dropout) @ value
