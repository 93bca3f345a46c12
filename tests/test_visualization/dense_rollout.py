"""Rollout by brute force: stock networks, whole matrices, one loop a token."""

import torch
import torch.nn.functional as F

WINDOW = 4


def keep_softmax(kept):
    """A hook for Swin's softmax, which every framework's window attention has."""

    def hook(module, args, output):
        if output.requires_grad:
            output.retain_grad()
        kept.append(output)

    return hook


def swin_matrices(backbone, image, score=None):
    """For each block: attention (heads, tokens, tokens), its gradient, merging."""
    kept, grids, found = [], [], []
    blocks = [block for stage in backbone.stages for block in stage.blocks]
    for block in blocks:
        block.attn.w_msa.softmax.register_forward_hook(keep_softmax(kept))
        block.attn.register_forward_hook(lambda _, args, out: grids.append(args[1]))
    out = backbone(image)
    if score is not None:
        score(out).backward()
    for number, (block, weights, grid) in enumerate(zip(blocks, kept, grids)):
        shift = block.attn.shift_size
        merge = None
        if number and grid != grids[number - 1]:
            merge = merging(grids[number - 1], grid)
        gradient = None if score is None else dense(weights.grad, grid, shift)
        found.append((dense(weights, grid, shift), gradient, merge))
    return found


def dense(weights, grid, shift):
    """The windows' weights (num_windows, heads, N, N) in one matrix."""
    height, width = grid
    high, wide = (-(-side // WINDOW) * WINDOW for side in grid)
    across = wide // WINDOW
    matrix = torch.zeros(weights.shape[1], height * width, height * width)
    for window in range(len(weights)):
        places = []
        for inside in range(WINDOW * WINDOW):
            y = (window // across * WINDOW + inside // WINDOW + shift) % high
            x = (window % across * WINDOW + inside % WINDOW + shift) % wide
            places.append((y, x) if y < height and x < width else None)
        for q, at in enumerate(places):
            for k, to in enumerate(places):
                if at and to:
                    row, column = at[0] * width + at[1], to[0] * width + to[1]
                    matrix[:, row, column] = weights[window, :, q, k].detach()
    return matrix


def merging(fine, coarse):
    """Each token the mean of the two by two that are in the finer grid."""
    matrix = torch.zeros(coarse[0] * coarse[1], fine[0] * fine[1])
    for y in range(coarse[0]):
        for x in range(coarse[1]):
            for row in (2 * y, 2 * y + 1):
                for column in (2 * x, 2 * x + 1):
                    if row < fine[0] and column < fine[1]:
                        matrix[y * coarse[1] + x, row * fine[1] + column] = 1
    return matrix / matrix.sum(dim=1, keepdim=True)


def vit_matrices(backbone, image, score=None):
    """As for Swin, of a ViT, whose attention is made to keep its weights."""
    kept = []

    def attention(query, key, value, **_):
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        keep_softmax(kept)(None, None, weights)
        return weights @ value

    def inner_attention(inner):
        """For mmseg's, that of torch.nn.MultiheadAttention, tokens first."""

        def split(x):  # (N, B, C) to (B, heads, N, d)
            return x.unflatten(2, (inner.num_heads, -1)).permute(1, 2, 0, 3)

        def forward(query, key, value, **_):
            rows = F.linear(query, inner.in_proj_weight, inner.in_proj_bias)
            out = attention(*map(split, rows.chunk(3, dim=-1)))
            return (inner.out_proj(out.permute(2, 0, 1, 3).flatten(2)),)

        return forward

    for layer in backbone.layers:
        if hasattr(layer.attn, 'attn'):
            layer.attn.attn.forward = inner_attention(layer.attn.attn)
        else:
            layer.attn.scaled_dot_product_attention = attention
    out = backbone(image)
    if score is not None:
        score(out).backward()
    return [
        (each[0].detach(), None if score is None else each.grad[0], None)
        for each in kept
    ]


def rolled_out(matrices, score=None):
    """The product of all layers, (tokens of the last, tokens of the first)."""
    whole = torch.eye(matrices[0][0].shape[1])
    for weights, gradient, merge in matrices:
        if merge is not None:
            whole = merge @ whole
        one = torch.eye(weights.shape[1])
        if score is None:
            attention = F.normalize(weights.mean(dim=0), p=1, dim=1)
            whole = (0.5 * attention + 0.5 * one) @ whole
        else:
            whole = (one + (gradient * weights).clamp(min=0).mean(dim=0)) @ whole
    return whole
