"""How an attention layer takes a manifold key: replace the linear key, or add to it."""

from torch import Tensor, nn

from ..keys import ManifoldKey


class KeySlot:
    """Mixin of attention layers with a stock ``qkv`` and an optional key module.

    ================================ ============================= ==================
    arguments                        query, key, value             state dict
    ================================ ============================= ==================
    ``key=None``                     stock                         ``qkv``
    ``key=dict(...)``                q, v = qv(x), k = key(x)      ``qv``, ``key``
    ... and ``key_residual=True``    q, k, v = qkv(x), k += key(x) ``qkv``, ``key``
    ================================ ============================= ==================

    The rows of ``qv`` are the query's, then the value's. A residual key starts at zero,
    so the layer starts as the stock layer whose weights it loads (ours; the paper
    trains from scratch).
    """

    def insert_key(self, key: ManifoldKey | None, key_residual: bool) -> None:
        """Put the key in place; call once, after ``qkv`` exists."""
        self.key = key
        self.key_residual = key_residual
        if key is None:
            return
        if key_residual:
            key.zero_last_layer()
        else:
            bias = self.qkv.bias is not None
            del self.qkv
            self.qv = nn.Linear(self.embed_dims, self.embed_dims * 2, bias=bias)

    def init_weights(self) -> None:
        """Initialise, and set a residual key back to zero."""
        super().init_weights()
        if self.key is not None and self.key_residual:
            self.key.zero_last_layer()

    def project(
        self, x: Tensor, hw_shape: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of the tokens (B, N, C).

        Returns:
            tuple[Tensor]: Each (B, num_heads, N, head_dims).
        """
        if self.key is None:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
        elif self.key_residual:
            query, key, value = self.qkv(x).chunk(3, dim=-1)
            key = key + self.key(x, hw_shape)
        else:
            query, value = self.qv(x).chunk(2, dim=-1)
            key = self.key(x, hw_shape)
        return tuple(
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (query, key, value)
        )
