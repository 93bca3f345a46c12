"""ViT with manifold keys, for mmpretrain, mmdet and mmseg alike.

ViT: Dosovitskiy et al., https://arxiv.org/abs/2010.11929; DeiT: Touvron et al.,
https://arxiv.org/abs/2012.12877. Windows and relative positions for dense prediction:
Li et al. (ViTDet), https://arxiv.org/abs/2203.16527. Manifold keys: Meng et al.,
https://arxiv.org/abs/2402.00534.
"""

from collections.abc import Iterator, Sequence

import torch
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from ..arguments import (
    configs,
    natural,
    number,
    positive_int,
    switch,
    typed_config,
)
from ..attention import ManifoldKeyAttention
from ..grids import Grid, tell_grid
from ..registry import MODELS
from ..resize import resize_positions
from .base import MatchedInit, check_images
from .blocks import ManifoldKeyLayer
from .checks import (
    CHECKS,
    arch_settings,
    check_arguments,
    check_dense_arguments,
    check_drop_paths,
    output_indices,
)
from .ffn import adopt_ffn
from .loading import PositionsOnGrid
from .patches import pad_for_exporters
from .spellings import Unsaid
from .vit_spellings import Ways, from_mmseg_vit, from_vitdet


@MODELS.register_module()
class ManifoldKeyViT(PositionsOnGrid, MatchedInit, VisionTransformer):
    """ViT whose attention keys are manifolds.

    With ``key=None`` and the stock arguments this is mmpretrain's
    ``VisionTransformer``: the same state dict and the same output. Given the arguments
    of mmseg's ``VisionTransformer``, or of the ViT of mmdet's ViTDet, it is that one,
    with their defaults. Otherwise ``with_cls_token=False, out_type='featmap'`` is for
    dense prediction; weights of another image size and with a class token load.

    DINOv2 (Oquab et al., https://arxiv.org/abs/2304.07193) is an architecture
    ('dinov2-small', 'base', 'large', 'dinov2-giant') with ``img_size=518,
    patch_size=14, layer_scale_init_value=1e-5``, and ``num_registers=4`` where it has
    registers; the giant has ``layer_cfgs=dict(ffn_type='swiglu_fused')`` besides.

    Differences from mmpretrain's class:

    - ``frozen_stages`` 0 freezes the embeddings, k the first k layers as well; -1
      freezes nothing.
    - Without ``init_cfg`` the weights start as in DeiT (truncated normal of deviation
      0.02, MLPs as mmpretrain's), whichever framework builds the backbone.
    - Outputs come in the dtype of the images, whatever weights or autocast compute in:
      mmdet's heads, whose operators (NMS, RoIAlign) know no bfloat16, get float32.

    Args:
        arch (str | dict): As in mmpretrain, such as 'base' or 'deit-small'. Defaults to
            'base'.
        key (dict | Sequence[dict | None], optional): Config of the key, one for all
            layers or one per layer; ``None`` is the stock linear key. With
            ``residual=True`` in the config the manifold is added to the stock linear
            key and is zero at the start, so that stock weights load untouched. Defaults
            to None.
        context_broadcasting (bool): Context broadcasting at the end of each MLP, over
            all tokens. Defaults to False.
        num_registers (int): Register tokens R, parameter ``register_tokens`` (1, R, C).
            They stand after the class token, have no positions, and are not part of
            feature maps. Darcet et al., https://arxiv.org/abs/2309.16588, Section 2.2.
            Defaults to 0.
        window_size (int): Side of the attention windows in tokens; 0 attends globally
            in every layer. Defaults to 0.
        global_attn_indexes (Sequence[int]): Layers that attend globally nevertheless.
            Defaults to ``()``.
        use_rel_pos (bool): Decomposed relative positions, zero at the start. Defaults
            to False.
        with_cp (bool): Recompute layers in the backward pass. Defaults to False.
        frozen_stages (int): Layers to freeze, see above. Defaults to -1.
        init_cfg (dict | list[dict], optional): Initialisation, or ``Pretrained``, which
            loads as :class:`mmmanikey.checkpoint.PretrainedBackbone`. Defaults to None.
        **kwargs: Every other argument of mmpretrain's ``VisionTransformer``, or those
            of mmseg's or of mmdet's ViTDet instead, ``pretrained`` included.

    Raises:
        ValueError: If a list of keys does not match the layers, windows or relative
            positions meet a class token or registers, or an argument is out of range.
        TypeError: If an argument is of another kind, unknown, or in another spelling
            than the rest.

    Examples:
        >>> import torch
        >>> from mmmanikey.backbones import ManifoldKeyViT
        >>> vit = ManifoldKeyViT('deit-small', key=dict(type='VanillaK', num_charts=8))
        >>> vit(torch.rand(1, 3, 224, 224))[0].shape
        torch.Size([1, 384])
    """

    stock_class = VisionTransformer
    spellings = {
        "mmseg's VisionTransformer": from_mmseg_vit,
        "the ViT of mmdet's ViTDet": from_vitdet,
    }
    checks = {
        **CHECKS,
        'window_size': natural,
        'num_registers': natural,
        'norm_cfg': typed_config,
        'layer_scale_init_value': number,
        'qkv_bias': switch,
        'final_norm': switch,
        'with_cls_token': switch,
        'pre_norm': switch,
        'use_rel_pos': switch,
    }

    def __init__(
        self,
        arch: str | dict = Unsaid('base'),  # noqa: B008
        *args,
        key: dict | None | Sequence[dict | None] = None,
        context_broadcasting: bool = False,
        num_registers: int = 0,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
        use_rel_pos: bool = False,
        with_cp: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        named = check_arguments(
            type(self),
            (arch, *args),
            {**kwargs, 'init_cfg': init_cfg},
            key=key,
            context_broadcasting=context_broadcasting,
            num_registers=num_registers,
            window_size=window_size,
            global_attn_indexes=global_attn_indexes,
            use_rel_pos=use_rel_pos,
            with_cp=with_cp,
            frozen_stages=frozen_stages,
        )
        default_init, pretrained_cfg = self.split_init_cfg(named.pop('init_cfg'))
        window_size = named.pop('window_size', window_size)
        global_attn_indexes = named.pop('global_attn_indexes', global_attn_indexes)
        use_rel_pos = named.pop('use_rel_pos', use_rel_pos)
        ways = named.pop('ways', Ways())
        num_layers = self.layers_of(named['arch'])
        named['out_indices'] = output_indices(named['out_indices'], num_layers)
        cfgs = named.get('layer_cfgs', {})
        named['layer_cfgs'] = configs('layer_cfgs', cfgs, num_layers)
        super().__init__(init_cfg=default_init, **named)
        self.ways = ways
        if not ways.use_abs_pos:
            self.pos_embed = None
        self.pretrained_cfg = pretrained_cfg
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        self.add_registers(num_registers)
        check_dense_arguments(self, window_size, global_attn_indexes, use_rel_pos)
        pad_for_exporters(self.patch_embed)
        keys = configs('key', key, self.num_layers, optional=True)
        for i, layer in enumerate(self.layers):
            side = 0 if i in global_attn_indexes else window_size
            grid = (side, side) if side else ways.rel_pos_grid or self.patch_resolution
            layer.__class__, layer.with_cp = ManifoldKeyLayer, with_cp
            ManifoldKeyAttention.adopt(
                layer.attn,
                key=keys[i],
                window_size=side,
                rel_pos_size=grid if use_rel_pos else None,
            )
            ways.change(layer.attn)
            adopt_ffn(layer.ffn, context_broadcasting, layer.attn.has_linear_key)
        check_drop_paths(self)
        tell_grid(self, 'patch_resolution')
        self.built_on_meta = any(each.is_meta for each in self.parameters())
        self._freeze_stages()

    @classmethod
    def layers_of(cls, arch: str | dict) -> int:
        """Number of layers of an arch; raises ValueError if it cannot be one."""
        settings = arch_settings(cls, arch)
        for name, value in settings.items():
            positive_int(name, value)
        return settings['num_layers']

    @classmethod
    def channels_of(cls, named: dict[str, object]) -> list[int]:
        """Channels of the maps, from arguments in mmpretrain's words."""
        levels = output_indices(named['out_indices'], cls.layers_of(named['arch']))
        count = len({*levels}) + named.get('ways', Ways()).out_origin
        return [arch_settings(cls, named['arch'])['embed_dims']] * count

    def add_registers(self, num_registers: int) -> None:
        """Make the register tokens, which start as DINOv2's do."""
        #: Tokens before the grid that have positions; ``num_extra_tokens`` is all.
        self.num_class_tokens = self.num_extra_tokens
        self.num_extra_tokens += num_registers
        self.register_tokens = None
        if num_registers:
            tokens = torch.empty(1, num_registers, self.embed_dims)
            self.register_tokens = nn.Parameter(nn.init.normal_(tokens, std=1e-6))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs of ``out_indices``.

        Args:
            x (Tensor): Images, (B, in_channels, H, W), of any height and width: they
                are padded with zeros at the right and bottom to whole patches.

        Returns:
            tuple[Tensor]: For ``out_type='featmap'`` maps (B, C, h, w), for
                ``'cls_token'`` and ``'avg_featmap'`` (B, C), for ``'raw'`` (B, N, C):
                class token, registers, then the grid row by row. They have the dtype
                of the images.

        Raises:
            ValueError: If these are no images.
        """
        check_images(x, self.patch_embed.projection.in_channels)
        dtype = x.dtype
        x = x.to(self.patch_embed.projection.weight.dtype)
        x, hw_shape = self.patch_embed(x)  # (B, h * w, C)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if self.pos_embed is not None:
            extra, source = self.num_class_tokens, self.patch_resolution
            x = x + resize_positions(
                self.pos_embed, source, hw_shape, self.interpolate_mode, extra
            )
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(x.shape[0], -1, -1)
            front, grid = x[:, : self.num_class_tokens], x[:, self.num_class_tokens :]
            x = torch.cat([front, registers, grid], dim=1)
        x = self.pre_norm(self.drop_after_pos(x))

        outs = [self.output(x, hw_shape, dtype)] if self.ways.out_origin else []
        for i, layer in enumerate(self.layers):
            x = layer(x, hw_shape)
            if i == self.num_layers - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self.output(x, hw_shape, dtype))
        return outs[0] if self.ways.one_map else tuple(outs)

    def output(
        self, x: Tensor, hw_shape: tuple[int, int], dtype: torch.dtype
    ) -> Tensor | list[Tensor]:
        """One output, of the tokens (B, N, C)."""
        out = self._format_output(x, hw_shape).to(dtype)
        return [out, x[:, 0].to(dtype)] if self.ways.output_cls_token else out

    def _freeze_stages(self) -> None:
        self.ways.freeze(self)
        if self.frozen_stages >= 0:
            super()._freeze_stages()
            if self.register_tokens is not None:
                self.register_tokens.requires_grad_(False)

    def adapt(
        self, weights: dict[str, Tensor], prefix: str, told: Grid | None
    ) -> Iterator[tuple[str, str]]:
        """As for all backbones; without ``with_cls_token`` the class token goes."""
        yield from super().adapt(weights, prefix, told)
        if not self.with_cls_token:
            weights.pop(f'{prefix}cls_token', None)
