"""How an attention layer takes a manifold key: replace the linear key, or add to it."""

from torch import Tensor, nn

from ..arguments import heads_of, rate, switch
from ..keys import ManifoldKey


def check_attention(
    embed_dims: int,
    num_heads: int,
    attn_drop: float,
    proj_drop: float,
    qkv_bias: bool,
    key_residual: bool,
) -> None:
    """Raise ValueError or TypeError for arguments that the stock layers let pass."""
    heads_of(embed_dims, num_heads)
    rate('attn_drop', attn_drop)
    rate('proj_drop', proj_drop)
    switch('qkv_bias', qkv_bias)
    switch('key_residual', key_residual)


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
        if key.embed_dims != self.embed_dims:
            raise ValueError(
                f'the key has {key.embed_dims} channels in a layer of '
                f'{self.embed_dims}; leave embed_dims out of the key config'
            )
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
