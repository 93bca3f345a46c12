"""Where a token looks over all layers: attention rollout through windows and merging.

Rollout: Abnar and Zuidema, *Quantifying Attention Flow in Transformers*, Section 3,
https://arxiv.org/abs/2005.00928. Weighted by gradients: Chefer, Gur and Wolf, *Generic
Attention-Model Explainability*, Section 3.1, https://arxiv.org/abs/2103.15679. Both are
products of one matrix a layer, of which only the blocks of the windows are kept. How
they pass patch merging and padding is ours.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.structure import slot_of
from .attention import Query, default_query, grid_place, softmax_weights
from .layers import Layer, layer_numbers, record_layers, watching
from .token_windows import TokenWindows

Score = Callable[[object], Tensor]


class Step(NamedTuple):
    """One layer: row vectors become ``keep * row + row @ mix``, then pass merging.

    Args:
        windows (TokenWindows): Of the layer.
        mix (Tensor): The blocks of its matrix, (num_windows, N, N).
        keep (float): Share that the residual connection has.
        merged (Tensor, optional): Where patches were merged before the layer, the
            tokens of the finer grid that each token was made of, or -1, (tokens, k).
        num_finer (int): Tokens of that finer grid.
    """

    windows: TokenWindows
    mix: Tensor
    keep: float
    merged: Tensor | None = None
    num_finer: int = 0

    def back(self, rows: Tensor) -> Tensor:
        """Rows (T, tokens) after the layer as rows over the tokens before it."""
        inside = F.pad(rows, (0, 1))[:, self.windows.places]  # (T, num_windows, N)
        moved = torch.einsum('twq,wqk->twk', inside, self.mix)
        rows = self.keep * rows + self.windows.join(moved[:, :, None])[:, 0]
        if self.merged is None:
            return rows
        real = self.merged >= 0
        share = (rows / real.sum(dim=1))[..., None].expand(-1, *real.shape)[:, real]
        finer = rows.new_zeros(len(rows), self.num_finer)
        return finer.index_add(1, self.merged[real], share)


def rollout(
    model: nn.Module,
    image: Tensor,
    token: Query | None = None,
    score: Score | None = None,
) -> Tensor:
    r"""Where a token of the last attention layer looks in the image.

    The rows of :math:`\hat A_L \cdots \hat A_1` with :math:`\hat A = (A + 1) / 2` and A
    the mean over the heads. With a score these are
    :math:`(1 + \bar A_L) \cdots (1 + \bar A_1)` with :math:`\bar A` the mean over the
    heads of :math:`(\nabla A \odot A)^+`, where :math:`\nabla A` is the gradient of the
    score. Attention to padding is left out, without a score the rest of a row is scaled
    to sum to one; a merged token is the mean of those that it is made of.

    Args:
        model (nn.Module): A backbone, ours or a stock one, or a model that holds one as
            ``backbone``, in eval mode.
        image (Tensor): A normalised image, (1, 3, H, W).
        token (str | tuple[int, int], optional): 'cls'; 'mean', the mean over the
            tokens of the last grid; 'center' or row and column on that grid. Defaults
            to the class token where there is one, else to 'mean'.
        score (Callable, optional): Makes of the model's output the number whose
            gradients weight the attention, such as ``lambda scores: scores[0, 3]``.
            Defaults to None, without gradients.

    Returns:
        Tensor: The share that each token of the first grid has, (h, w). Without a score
        it sums to one, less the share of class token and registers.

    Raises:
        ValueError: If the model has no attention that can be read, there is no such
            token, these are several images, or the score is no number.
    """
    if len(image) != 1:
        raise ValueError(f'rollout takes one image, got a batch of {len(image)}')
    steps = record_steps(model, image, score)
    row = start_row(steps[-1].windows, token)
    return carried_back(row, steps)[0]


def carried_back(rows: Tensor, steps: list[Step]) -> Tensor:
    """Rows over the last layer's tokens (T, tokens) on the first grid, (T, h, w)."""
    for step in reversed(steps):
        rows = step.back(rows)
    first = steps[0].windows
    return rows[:, first.num_extra :].unflatten(1, first.hw_shape)


def start_row(windows: TokenWindows, token: Query | None) -> Tensor:
    """The share of each token of the last layer at the start, (1, tokens)."""
    token = default_query(windows) if token is None else token
    extra, (height, width) = windows.num_extra, windows.hw_shape
    row = windows.tokens.new_zeros(1, extra + height * width)
    if token == 'mean':
        row[:, extra:] = 1 / (height * width)
    elif token == 'cls':
        if not windows.has_class_token:
            raise ValueError("token 'cls' needs a class token, and there is none")
        row[:, 0] = 1
    else:
        row[:, extra + grid_place(token, windows.hw_shape)] = 1
    return row


def record_steps(
    model: nn.Module, image: Tensor, score: Score | None = None
) -> list[Step]:
    """Run an image and keep the matrix of each layer, see :func:`rollout`."""
    backbone = getattr(model, 'backbone', model)
    if score is None:
        return attention_steps(backbone, record_layers(backbone, image))
    mixes = [
        (layer, (gradient * weights).clamp(min=0).mean(dim=2)[0])
        for layer, weights, gradient in record_gradients(model, image, score)
    ]
    return linked(backbone, mixes, keep=1.0)


@torch.no_grad()
def attention_steps(backbone: nn.Module, layers: Sequence[Layer]) -> list[Step]:
    """The matrices of rollout without gradients, of all layers of a backbone."""
    mixes = []
    for layer in layers:
        mix = softmax_weights(layer.module, layer.windows).mean(dim=2)[0]
        mix *= (layer.windows.places >= 0)[:, None]
        # queries of the padding may see none of what is left, and are asked nothing
        total = mix.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(mix.dtype).tiny)
        mixes.append((layer, 0.5 * mix / total))
    return linked(backbone, mixes, keep=0.5)


def linked(
    backbone: nn.Module, mixes: Sequence[tuple[Layer, Tensor]], keep: float
) -> list[Step]:
    """Steps of the layers' matrices, with the patch merging between them."""
    merged = merged_before(backbone)
    steps = []
    for layer, mix in mixes:
        # what rows need of the windows is where the tokens are
        windows = layer.windows._replace(tokens=layer.windows.tokens[:, :0, :0])
        step = Step(windows, mix, keep)
        if downsample := merged.get(layer.number):
            height, width = steps[-1].windows.hw_shape
            places = merged_places(downsample, (height, width)).to(mix.device)
            step = step._replace(merged=places, num_finer=height * width)
        steps.append(step)
    return steps


def record_gradients(
    model: nn.Module, image: Tensor, score: Score
) -> list[tuple[Layer, Tensor, Tensor]]:
    """The layers, their attention and the score's gradients by it.

    Each layer is computed again with its weights in sight, which the fused kernels do
    not keep.
    """
    backbone = getattr(model, 'backbone', model)
    layers, attention, nudges = {}, {}, {}

    def see(layer: Layer) -> Tensor:
        weights = softmax_weights(layer.module, layer.windows)
        # also where all parameters are frozen
        nudge = torch.zeros_like(weights, requires_grad=True)
        if layer.number not in layers:  # not when recomputed in the backward pass
            layers[layer.number] = layer
            attention[layer.number] = weights.detach()
            nudges[layer.number] = nudge
        return attend(layer, weights + nudge)

    with torch.enable_grad(), watching(backbone, layer_numbers(backbone), see):
        value = score(model(image))
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f'the score must be a tensor of one number, got {value!r}')
        gradients = torch.autograd.grad(
            value.sum(), list(nudges.values()), allow_unused=True
        )
    return [
        (layer, weights, torch.zeros_like(weights) if gradient is None else gradient)
        for layer, weights, gradient in zip(
            layers.values(), attention.values(), gradients
        )
    ]


def attend(layer: Layer, weights: Tensor) -> Tensor:
    """The output of a layer in eval mode with these weights, (B, tokens, C)."""
    slot, windows = slot_of(layer.module), layer.windows
    value = slot.project(windows.tokens.flatten(0, 1), windows.window)[2]
    mixed = weights @ value.unflatten(0, weights.shape[:2])
    out = slot.proj(mixed.transpose(2, 3).flatten(3))  # (B, num_windows, N, C)
    out = windows.join(out.transpose(2, 3)).transpose(1, 2)
    return getattr(layer.module, 'gamma1', nn.Identity())(out)


def merged_before(backbone: nn.Module) -> dict[int, nn.Module]:
    """Layers of patch merging by the number of the attention layer that follows."""
    found, number = {}, 0
    for stage in getattr(backbone, 'stages', ()):
        number += len(stage.blocks)
        if stage.downsample is not None:
            found[number] = stage.downsample
    return found


def merged_places(downsample: nn.Module, hw_shape: tuple[int, int]) -> Tensor:
    """The tokens of the grid that each merged token is made of, or -1, (tokens, k).

    Args:
        downsample (nn.Module): mmcv's or mmdet's or mmseg's ``PatchMerging``.
        hw_shape (tuple[int, int]): The grid before.
    """
    height, width = hw_shape
    numbers = torch.arange(1, height * width + 1, dtype=torch.float64)
    numbers = numbers.view(1, 1, height, width)
    for name in ('adaptive_padding', 'adap_padding'):
        if pad := getattr(downsample, name, None):
            numbers = pad(numbers)
    return downsample.sampler(numbers)[0].t().long() - 1
