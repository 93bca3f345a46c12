"""The forms of Swin's window attention."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from ..attention.swin import ManifoldKeyShiftWindowMSA, ManifoldKeyWindowMSA
from ..keys.windows import windows_along
from .choice import Form, register
from .crossovers import why_small
from .fused_windows import MOST_WINDOWS, FusedWindowAttention, has_kernel
from .gradients import compute
from .linear import dense, must_be_exact
from .pieces import autocast, product_dtype, why_not_here
from .position_bias import ALIGNMENT, Pairs, PositionBias, prepared
from .window_attention import GridAttention
from .window_grid import WindowGrid, from_windows, pad_tokens, to_windows, window_grid

Shape = tuple[int, int]


class GatheredWindows(Form):
    """Padding, rolling and cutting as one permutation after the projection.

    Nothing is computed for the padding but one token, and no logits are kept.
    """

    replaces: ClassVar = {
        'w_msa': ManifoldKeyWindowMSA,
        'w_msa.softmax': nn.Softmax,
        'w_msa.attn_drop': nn.Dropout,
    }

    def why_not(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> str | None:
        msa = layer.w_msa
        drop = msa.attn_drop
        if drop.training and drop.p:
            return 'attention weights are dropped'
        if msa.softmax.dim != -1:
            return f'the softmax is over dimension {msa.softmax.dim}'
        return why_not_here(query, msa.relative_position_bias_table)

    def __call__(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> Tensor:
        msa = layer.w_msa
        tokens, like = query.flatten(0, 1), (query.device, product_dtype(query))
        grid = window_grid(len(query), *hw_shape, layer.window_size, shift, *like)
        return msa.proj_drop(self.attend(msa, tokens, grid, shift > 0)).view_as(query)

    @abstractmethod
    def attend(
        self, msa: nn.Module, tokens: Tensor, grid: WindowGrid, shifted: bool
    ) -> Tensor:
        """Project and attend, (T, C)."""


def layers_of(msa: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    """The projection to query, value and a linear key, and that of the output.

    The weights of plain linear layers are cast together, for autocast.
    """
    layers = [msa.qkv if msa.has_linear_key else msa.qv, msa.proj]
    if any(type(layer) is not nn.Linear for layer in layers):
        return layers
    tensors = autocast(*(each for x in layers for each in (x.weight, x.bias)))
    pairs = zip(tensors[::2], tensors[1::2])
    exact = must_be_exact(msa.has_linear_key)
    return [partial(dense, weight=w, bias=b, exact=exact) for w, b in pairs]


def rows_of(msa: nn.Module, x: Tensor) -> Tensor:
    """Rows of query and value, and of a linear key, (..., parts, num_heads, d)."""
    (rows,) = autocast(x.contiguous())  # other layers may make others
    return rows.unflatten(-1, (-1, msa.num_heads, msa.embed_dims // msa.num_heads))


def position_of(msa: nn.Module) -> tuple[Tensor, Pairs]:
    """Its table of :class:`PositionBias`, and the pairs of tokens that use it."""
    table = msa.relative_position_bias_table
    return table, prepared(msa.relative_position_index, len(table))


@register(ManifoldKeyShiftWindowMSA)
class FusedWindows(GatheredWindows):
    """All windows in one call of a fused kernel, for CUDA."""

    name = 'fused windows'

    def why_slow(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> str | None:
        return None if query.is_cuda else f'the device is {query.device.type}'

    def why_not(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> str | None:
        msa, dtype = layer.w_msa, product_dtype(query)
        if msa.embed_dims // msa.num_heads % ALIGNMENT:
            return f'heads have no multiple of {ALIGNMENT} channels'
        if not has_kernel(query.device, dtype):
            return f"PyTorch's memory-efficient kernel is off, or not for {dtype} here"
        down, across = (windows_along(side, layer.window_size) for side in hw_shape)
        windows = len(query) * down * across
        if windows > MOST_WINDOWS:
            return f'there are more than {MOST_WINDOWS:,} windows'
        return super().why_not(layer, query, hw_shape, shift)

    def attend(
        self, msa: nn.Module, tokens: Tensor, grid: WindowGrid, shifted: bool
    ) -> Tensor:
        windows = to_windows(tokens, grid)
        key = None if msa.key is None else msa.key(windows).contiguous()
        windows, key = autocast(windows, key)  # after a key took what plain code gives
        project, project_out = layers_of(msa)
        rows = rows_of(msa, project(windows))
        settings = *position_of(msa), shifted, grid, msa.scale
        attention = FusedWindowAttention(rows, key, *settings)
        return from_windows(project_out(compute(attention)), grid)


@register(ManifoldKeyShiftWindowMSA)
class WindowsInPieces(GatheredWindows):
    """Some windows at a time."""

    name = 'windows in pieces'

    def why_slow(
        self, layer: nn.Module, query: Tensor, hw_shape: Shape, shift: int
    ) -> str | None:
        if not query.is_cpu:
            return f'the device is {query.device.type}'
        small = why_small(self.name, query)
        linear = getattr(layer.w_msa, 'has_linear_key', False)
        return small if small and must_be_exact(linear) else None

    def attend(
        self, msa: nn.Module, tokens: Tensor, grid: WindowGrid, shifted: bool
    ) -> Tensor:
        bias = compute(PositionBias(*position_of(msa), grid.masks, shifted))
        key = None if msa.key is None else msa.key(to_windows(tokens, grid))
        project, project_out = layers_of(msa)
        rows = rows_of(msa, project(pad_tokens(tokens, grid)))
        (key,) = autocast(key)
        return project_out(compute(GridAttention(rows, key, bias, grid, msa.scale)))
