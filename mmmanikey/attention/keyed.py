"""Layers that carry a key: their class becomes a subclass, their weights stay.

Not from the paper. The key is a child of the name ``key``, and its output is added to
those channels of the layer's output that are the attention's key.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from ..grids import Grid
from ..keys import ManifoldKey

#: What projects tokens by a weight, its second argument; products may do other things.
DENSE = {F.linear, torch.conv1d, torch.conv2d, torch.conv3d}
PRODUCTS = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}
PRODUCTS |= {torch.mm, torch.Tensor.mm}
#: What the operands of these and of other products are called, in their order.
OPERANDS = 'input', 'weight', 'other', 'mat2', 'batch1', 'batch2'


class Keyed:
    """Mixin of modules whose own class, ``stock``, can be given back."""

    def __init__(self, *args, **kwargs) -> None:
        self.__class__ = self.stock  # a new one, as adapters make, has no key
        self.__init__(*args, **kwargs)

    def __reduce_ex__(self, protocol: int) -> tuple:
        return blank, (self.stock, self.mixin), *super().__reduce_ex__(protocol)[2:]


class KeyHolder(Keyed):
    """A layer with a key."""

    def put_key(
        self,
        key: ManifoldKey,
        rows: Tensor,
        grid: Grid | None,
        extra: int,
        weight: str = '',
    ) -> None:
        """Take a key for these channels, and tokens that end in a grid.

        ``weight`` is the name of what makes the attention's key, where it is read.
        """
        self.keyed_weight = weight
        start, adjoin = int(rows[0]), int(rows[-1] - rows[0]) == len(rows) - 1
        self.key, self.key_place = key, (start, grid, extra)
        self.register_buffer('key_rows', None if adjoin else rows, persistent=False)

    def take_key(self) -> None:
        """Undo :meth:`put_key`."""
        del self.key, self.key_place, self.key_rows, self.keyed_weight

    def init_weights(self) -> None:
        """Start the key again: mmengine calls this after drawing all Linear layers."""
        getattr(super(), 'init_weights', do_nothing)()
        self.key.init_weights()

    def with_key(self, out: Tensor, x: Tensor) -> Tensor:
        """The layer's output with the key added, out of place: a slice that is changed
        in place ends Python under FSDP2.
        """
        dim = 1 if isinstance(self, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) else -1
        k = self.make_key(x.movedim(dim, -1)).movedim(-1, dim).to(out.dtype)
        if k.shape[dim] == out.shape[dim]:
            return out + k
        if self.key_rows is not None:
            return out.index_add(dim, self.key_rows, k)
        start, many = self.key_place[0], k.shape[dim]
        sizes = start, many, out.shape[dim] - start - many
        before, rows, after = out.split(sizes, dim)
        return torch.cat((before, rows + k, after), dim)

    def make_key(self, x: Tensor) -> Tensor:
        """The key (..., N, out_dims) of tokens (..., N, C)."""
        tokens, (_, grid, extra) = x, self.key_place
        if grid is not None:
            area = extra + grid[0] * grid[1]
            if x.shape[-2] != area and x.shape[-3:-1] == grid:
                tokens = x.flatten(-3, -2)
            if tokens.shape[-2] != area:
                raise ValueError(
                    f'a key for {area} tokens, which end in a grid of {grid}, got '
                    f'tokens of shape {tuple(x.shape)}'
                )
        k = self.key(tokens.reshape(-1, *tokens.shape[-2:]), grid)
        return k.reshape(*x.shape[:-1], -1)


class KeyedLayer(KeyHolder):
    """A layer that is called: a projection of tokens, or a 1 x 1 convolution."""

    def forward(self, *args, **kwargs) -> Tensor:
        x = args[0] if args else next(iter(kwargs.values()))  # torch calls it input
        return self.with_key(super().forward(*args, **kwargs), x)


class KeyReader(Keyed):
    """An attention that hands a layer's weight to torch's functions by itself."""

    keyed_layer = ''

    def forward(self, *args, **kwargs) -> object:
        layer = self.get_submodule(self.keyed_layer)
        if not isinstance(layer, KeyHolder):  # an adapter wraps it
            (layer,) = keyed_layers(layer).values()
        if parametrize.is_parametrized(layer):
            return self.forward_parametrised(layer, *args, **kwargs)
        with AddedKey(layer):
            return super().forward(*args, **kwargs)

    @torch.compiler.disable  # a compiler does not know the cache
    def forward_parametrised(self, layer: KeyHolder, *args, **kwargs) -> object:
        """As ``forward``, with a weight that is one tensor all the while."""
        with parametrize.cached(), AddedKey(layer):
            return super().forward(*args, **kwargs)


class KeyedAttention(KeyReader, KeyHolder):
    """An attention whose key is made by a weight of its own, as torch's.

    A hook that does nothing keeps ``nn.TransformerEncoderLayer`` from its fused path,
    which would pass the key by. In eval mode ``nn.TransformerEncoder`` makes sequences
    with a padding mask nested.
    """

    def forward(self, *args, **kwargs) -> object:
        if not (args and isinstance(args[0], Tensor) and args[0].is_nested):
            return super().forward(*args, **kwargs)
        forward = super().forward  # a comprehension has no super
        out = [forward(x, x, x, **kwargs)[0] for x in args[0].unbind()]
        return torch.nested.as_nested_tensor(out), None

    def put_key(self, *args) -> None:
        super().put_key(*args)
        self.register_forward_pre_hook(do_nothing)

    def take_key(self) -> None:
        super().take_key()
        hooks = self._forward_pre_hooks
        hooks.pop(next(n for n, hook in hooks.items() if hook is do_nothing))


def do_nothing(*_) -> None:
    """A hook; where there is one, torch calls the attention's own ``forward``."""


class AddedKey(TorchFunctionMode):
    """Adds the key of a layer where the layer's weight is used."""

    def __init__(self, layer: KeyHolder) -> None:
        super().__init__()
        self.layer = layer

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs=None
    ) -> object:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            kwargs = kwargs | dict(static_k=self.static_key(args[1], heads=args[4]))
        out = func(*args, **kwargs)
        if func in DENSE or func in PRODUCTS:
            x, weight = operands_of(args, kwargs)[:2]
            if weight is getattr(self.layer, self.layer.keyed_weight, None):
                return self.layer.with_key(out, x)
        return out

    def static_key(self, x: Tensor, heads: int) -> Tensor:
        """Keys (B * heads, N, C / heads) of tokens (N, B, C), for torch's function."""
        own, bias = self.layer, self.layer.in_proj_bias
        fused = own.in_proj_weight
        weight = own.k_proj_weight if fused is None else fused.chunk(3)[1]
        x = x.transpose(0, 1) if x.dim() == 3 else x[None]
        k = F.linear(x, weight, None if bias is None else bias.chunk(3)[1])
        k = own.with_key(k, x).unflatten(-1, (heads, -1))
        return k.transpose(1, 2).flatten(0, 1)


def operands_of(args: tuple, kwargs: dict) -> tuple:
    """The operands of a function of torch, whether they are named or not."""
    return (*args, *(kwargs[name] for name in OPERANDS if name in kwargs))


@functools.lru_cache(maxsize=1024)  # a class for each class of layers
def keyed_class(stock: type, mixin: type) -> type:
    """The subclass of a module's class with this mixin."""
    # torch.fx calls modules of torch.nn as they are; it cannot look into these
    parts = dict(stock=stock, mixin=mixin, __module__='torch.nn')
    return type(f'Keyed{stock.__name__}', (mixin, stock), parts)


def blank(stock: type, mixin: type) -> nn.Module:
    """A module of this class without a state, which pickle and deepcopy fill in."""
    return object.__new__(keyed_class(stock, mixin))


def keyed_layers(model: nn.Module) -> dict[str, KeyHolder]:
    """The layers with a key, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, KeyHolder)}
