"""How an attention layer takes a manifold key: replace the linear key, or add to it."""

from collections.abc import Callable

from torch import Tensor, nn

from ..arguments import heads_of
from ..forms.exporting import viewable
from ..keys import build_key

Apply = Callable[[nn.Module, Tensor], Tensor]


def called(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer as it is."""
    return layer(x)


class KeySlot:
    """Mixin of attention layers with a stock ``qkv`` and an optional key module.

    ================================ ============================= ==================
    argument                         query, key, value             state dict
    ================================ ============================= ==================
    ``key=None``                     stock                         ``qkv``
    ``key=dict(...)``                q, v = qv(x), k = key(x)      ``qv``, ``key``
    ... with ``residual=True``       q, k, v = qkv(x), k += key(x) ``qkv``, ``key``
    ================================ ============================= ==================

    The rows of ``qv`` are the query's, then the value's. A residual key starts at zero,
    so the layer starts as the stock layer whose weights it loads. (The paper trains
    from scratch.)
    """

    #: The stock class whose layers are adopted.
    stock_class: type

    @classmethod
    def adopt(cls, stock: nn.Module) -> 'KeySlot':
        """Make a stock layer one of this class, in place: its weights stay.

        Args:
            stock (nn.Module): A layer of exactly :attr:`stock_class`.

        Raises:
            TypeError: If it is of another class.
            ValueError: If its heads do not divide its channels.
        """
        if type(stock) is not cls.stock_class:
            raise TypeError(
                f'a manifold key takes the place of the key of a '
                f'{cls.stock_class.__name__}, got a {type(stock).__name__}'
            )
        heads_of(stock.embed_dims, stock.num_heads)
        stock.__class__ = cls
        return stock

    def insert_key(self, cfg: dict | None, window_size: tuple[int, int]) -> None:
        """Put a key in place; call once, on a layer with its stock ``qkv``.

        Args:
            cfg (dict, optional): Config of the key, see
                :func:`mmmanikey.keys.build_key`; ``None`` keeps the linear key.
            window_size (tuple[int, int]): Window of a key that needs one and whose
                config does not name it.

        Raises:
            ValueError: If the key is unknown or has other channels than the layer.
            TypeError: If an argument is of another kind.
        """
        self.key = None
        if cfg is None:
            return
        key = build_key(cfg, self.embed_dims, window_size)
        if {key.embed_dims, key.out_dims} != {self.embed_dims}:
            raise ValueError(
                f'the key maps {key.embed_dims} channels to {key.out_dims} in a layer '
                f'of {self.embed_dims}; leave embed_dims and out_dims out of its config'
            )
        self.key = key
        if not key.residual:
            bias = self.qkv.bias is not None
            del self.qkv
            self.qv = nn.Linear(self.embed_dims, self.embed_dims * 2, bias=bias)

    @property
    def has_linear_key(self) -> bool:
        """Whether ``qkv`` makes a key, alone or with a residual one added to it."""
        return self.key is None or self.key.residual

    def project(
        self,
        x: Tensor,
        hw_shape: tuple[int, int] | None = None,
        apply: Apply = called,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of the tokens (B, N, C).

        Args:
            x (Tensor): Tokens.
            hw_shape (tuple[int, int], optional): Height and width of the grid.
            apply (Callable): How a linear layer is applied. Defaults to a call.

        Returns:
            tuple[Tensor]: Each (B, num_heads, N, head_dims).
        """
        if self.has_linear_key:
            query, key, value = apply(self.qkv, x).chunk(3, dim=-1)
        else:
            query, value = apply(self.qv, x).chunk(2, dim=-1)
        if self.key is not None:
            manifold = self.key(x, hw_shape)
            key = key + manifold if self.has_linear_key else manifold
        return tuple(
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (query, key, value)
        )


def join_heads(x: Tensor) -> Tensor:
    """(B, num_heads, N, head_dims) as (B, N, num_heads * head_dims)."""
    return viewable(x.transpose(1, 2)).flatten(2)
