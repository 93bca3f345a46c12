"""Swin with manifold keys, for mmpretrain, mmdet and mmseg alike.

Swin: Liu et al., https://arxiv.org/abs/2103.14030. Manifold keys: Meng et al.,
https://arxiv.org/abs/2402.00534.
"""

from collections.abc import Sequence

from mmpretrain.models import SwinTransformer
from torch import Tensor

from ..arguments import (
    configs,
    is_int,
    is_list,
    positive_int,
    switch,
    typed_config,
)
from ..attention import ManifoldKeyShiftWindowMSA
from ..grids import tell_grid
from ..keys.windows import as_grid
from ..registry import MODELS
from ..resize import resize_positions
from .base import MatchedInit, RealRates, check_images
from .blocks import ManifoldKeyBlock
from .checks import (
    CHECKS,
    arch_settings,
    check_arguments,
    check_drop_paths,
    output_indices,
)
from .ffn import adopt_ffn
from .loading import PositionsOnGrid
from .patches import PatchUnfold, pad_for_exporters
from .spellings import Unsaid, from_mmdet_swin


def norm_config(name: str, value: dict | None) -> dict | None:
    """Check ``norm_cfg``, of which ``None`` means no norm."""
    return value if value is None else typed_config(name, value)


@MODELS.register_module()
class ManifoldKeySwin(PositionsOnGrid, MatchedInit, SwinTransformer):
    """Swin whose attention keys are manifolds.

    With ``key=None`` this is mmpretrain's ``SwinTransformer``: the same state dict and
    the same output. Given the arguments of mmdet's and mmseg's ``SwinTransformer``
    (``embed_dims``, ``depths``, ``pretrain_img_size`` and so on) it is that one, with
    their defaults. In a config of either framework ``type`` and ``key`` are therefore
    all that changes.

    Differences from mmpretrain's class:

    - ``frozen_stages`` counts as in mmdet: 0 freezes the stem, 1 the stem and the first
      stage, and so on; -1 freezes nothing. (mmpretrain's 0 freezes a stage as well.)
      Parameters are frozen at construction, before anything wraps them.
    - ``with_cp`` uses non-reentrant checkpointing, which works with frozen stages and
      with DistributedDataParallel.
    - Without ``init_cfg`` the weights start as in Swin's own code (truncated normal of
      deviation 0.02), whichever framework builds the backbone.
    - Maps come in the dtype of the images, whatever the weights or autocast compute
      in: a backbone in bfloat16 hands float32 to mmdet's heads, whose operators (NMS,
      RoIAlign) know no bfloat16.

    Args:
        arch (str | dict): 'tiny', 'small', 'base', 'large', or a dict of
            ``embed_dims``, ``depths`` and ``num_heads``. Defaults to 'tiny'.
        key (dict | Sequence[dict | None], optional): Config of the key, one for all
            stages or one per stage; ``None`` is the stock linear key. SpatialK takes
            the attention's window. With ``residual=True`` in the config the manifold is
            added to the stock linear key and is zero at the start, so that stock
            weights load untouched. Defaults to None.
        context_broadcasting (bool): Context broadcasting at the end of each MLP, over
            the true tokens of the feature map. Defaults to False.
        frozen_stages (int): Stages to freeze, see above. Defaults to -1.
        with_cp (bool): Recompute blocks in the backward pass. Defaults to False.
        init_cfg (dict | list[dict], optional): Initialisation, or ``Pretrained``, which
            loads as :class:`mmmanikey.checkpoint.PretrainedBackbone`. Defaults to None.
        **kwargs: Every other argument of mmpretrain's ``SwinTransformer``, or every
            argument of mmdet's and mmseg's instead, ``pretrained`` included.

    Raises:
        ValueError: If a list of keys does not match the stages, or an argument is out
            of range.
        TypeError: If an argument is of another kind, unknown, or in another spelling
            than the rest.

    Examples:
        >>> import torch
        >>> from mmmanikey.backbones import ManifoldKeySwin
        >>> swin = ManifoldKeySwin('tiny', key=dict(type='SpatialK', num_charts=8))
        >>> swin(torch.rand(1, 3, 224, 224))[-1].shape
        torch.Size([1, 768, 7, 7])
    """

    positions = 'absolute_pos_embed'
    stock_class = SwinTransformer
    spellings = {"mmdet's SwinTransformer": from_mmdet_swin}
    checks = {
        **CHECKS,
        'window_size': positive_int,
        'norm_cfg': norm_config,
        'out_after_downsample': switch,
        'use_abs_pos_embed': switch,
        'norm_eval': switch,
        'pad_small_map': switch,
    }

    def __init__(
        self,
        arch: str | dict = Unsaid('tiny'),  # noqa: B008
        *args,
        key: dict | None | Sequence[dict | None] = None,
        context_broadcasting: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        named = check_arguments(
            type(self),
            (arch, *args),
            {**kwargs, 'init_cfg': init_cfg},
            key=key,
            context_broadcasting=context_broadcasting,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
        )
        default_init, pretrained_cfg = self.split_init_cfg(
            named.pop('init_cfg'), named.pop('classifier_norm', True)
        )
        depths = self.depths_of(named['arch'])
        named['out_indices'] = output_indices(named['out_indices'], len(depths))
        if not is_int(frozen_stages) or not -1 <= frozen_stages <= len(depths):
            raise ValueError(
                f'frozen_stages must be -1 (none), 0 (stem) to {len(depths)} (all '
                f'stages), got {frozen_stages!r}'
            )
        stage_cfgs = configs(
            'stage_cfgs', named.get('stage_cfgs', {}), len(depths), 'stage'
        )
        named['stage_cfgs'] = stage_cfgs
        for stage_cfg, depth in zip(stage_cfgs, depths):
            configs('block_cfgs', stage_cfg.get('block_cfgs', {}), depth, 'block')
        with RealRates():
            super().__init__(
                frozen_stages=frozen_stages,
                with_cp=with_cp,
                init_cfg=default_init,
                **named,
            )
        self.pretrained_cfg = pretrained_cfg
        self.with_cp = with_cp
        pad_for_exporters(self.patch_embed)
        keys = configs('key', key, len(depths), 'stage', optional=True)
        for stage, stage_key in zip(self.stages, keys):
            if stage.downsample is not None:
                pad_for_exporters(stage.downsample)
                stage.downsample.sampler.__class__ = PatchUnfold
            for block in stage.blocks:
                block.__class__ = ManifoldKeyBlock
                ManifoldKeyShiftWindowMSA.adopt(block.attn, stage_key)
                linear = block.attn.w_msa.has_linear_key
                adopt_ffn(block.ffn, context_broadcasting, linear)
        check_drop_paths(self)
        if self.use_abs_pos_embed:
            tell_grid(self, 'patch_resolution')
        self.built_on_meta = any(each.is_meta for each in self.parameters())
        self._freeze_stages()

    @classmethod
    def depths_of(cls, arch: str | dict) -> Sequence[int]:
        """Blocks of each stage of an arch; raises ValueError if it cannot be one."""
        settings = arch_settings(cls, arch)
        positive_int('embed_dims', settings['embed_dims'])
        lists = depths, num_heads = settings['depths'], settings['num_heads']
        if not all(map(is_list, lists)) or len(depths) != len(num_heads):
            raise ValueError(
                'depths and num_heads must be lists with a number per stage, got '
                f'{depths!r} and {num_heads!r}'
            )
        for depth, heads in zip(depths, num_heads):
            positive_int('each of depths', depth)
            positive_int('each of num_heads', heads)
        return depths

    @classmethod
    def channels_of(cls, named: dict[str, object]) -> list[int]:
        """Channels of the maps, from arguments in mmpretrain's words."""
        stages = len(cls.depths_of(named['arch']))
        dims = [arch_settings(cls, named['arch'])['embed_dims']]
        cfgs = configs('stage_cfgs', named.get('stage_cfgs', {}), stages, 'stage')
        for i, cfg in enumerate(cfgs):
            merged = cfg.get('downsample_cfg', {}).get('out_channels', 2 * dims[-1])
            merges = cfg.get('downsample', i < stages - 1)
            dims.append(merged if merges else dims[-1])
        after = bool(named.get('out_after_downsample'))
        levels = sorted({*output_indices(named['out_indices'], stages)})
        return [dims[i + after] for i in levels]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute feature maps.

        Args:
            x (Tensor): Images, (B, in_channels, H, W), of any height and width: they
                are padded with zeros at the right and bottom to whole patches.

        Returns:
            tuple[Tensor]: One map (B, C_i, H_i, W_i) for each of ``out_indices``, in
                the dtype of the images.

        Raises:
            ValueError: If these are no images, or without ``pad_small_map`` a map
                is smaller than a window.
        """
        check_images(x, self.patch_embed.projection.in_channels)
        dtype = x.dtype
        x, hw_shape = self.patch_embed(x.to(self.patch_embed.projection.weight.dtype))
        if self.use_abs_pos_embed:
            x = x + resize_positions(
                self.absolute_pos_embed,
                self.patch_resolution,
                hw_shape,
                self.interpolate_mode,
                self.num_extra_tokens,
            )
        x = self.drop_after_pos(x)

        outs = []
        for i, stage in enumerate(self.stages):
            x, hw_shape = stage(x, hw_shape, do_downsample=self.out_after_downsample)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)  # (B, H_i * W_i, C_i)
                out = as_grid(out, hw_shape).permute(0, 3, 1, 2)
                outs.append(out.contiguous().to(dtype))
            if stage.downsample is not None and not self.out_after_downsample:
                x, hw_shape = stage.downsample(x, hw_shape)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, self.drop_after_pos]
        for i in range(self.frozen_stages):
            frozen.append(self.stages[i])
            if i in self.out_indices:
                frozen.append(getattr(self, f'norm{i}'))
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        if self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad_(False)
