"""ViTDet's simple feature pyramid.

Li et al., *Exploring Plain Vision Transformer Backbones for Object Detection*, Section
3 and Figure 2 (https://arxiv.org/abs/2203.16527): a pyramid from the last map alone.
"""

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..arguments import positive_int, typed_config
from ..registry import MODELS


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Maps of strides 4, 8, 16, 32 (and 64) from one map of stride 16.

    Stride 4 comes from two transposed convolutions with norm and GELU between, stride 8
    from one, stride 32 from max-pooling; each goes through a 1x1 and a 3x3 convolution
    with norms. A fifth level is the stride-32 map, subsampled.

    Args:
        in_channels (int): Channels of the backbone's map.
        out_channels (int): Channels of every level. Defaults to 256.
        num_outs (int): Levels, 4 or 5. Defaults to 5.
        norm_cfg (dict): Norm over the channels of (B, C, H, W). Defaults to
            mmpretrain's ``LN2d`` with eps 1e-6.
        init_cfg (dict | list[dict], optional): Initialisation config; ``None`` leaves
            torch's own, as ViTDet does. Defaults to None.

    Raises:
        ValueError: If a number is not a positive integer, ``in_channels`` not divisible
            by 4, or ``num_outs`` not 4 or 5.
        TypeError: If ``norm_cfg`` is no dict with a type.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        num_outs: int = 5,
        norm_cfg: dict = dict(type='mmpretrain.LN2d', eps=1e-6),  # noqa: B006
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = positive_int('in_channels', in_channels)
        if in_channels % 4:
            raise ValueError(f'in_channels must be divisible by 4, got {in_channels}')
        self.out_channels = positive_int('out_channels', out_channels)
        typed_config('norm_cfg', norm_cfg)
        if num_outs not in (4, 5):
            raise ValueError(
                f'num_outs must be 4 (strides 4 to 32) or 5 (and 64), got {num_outs!r}'
            )
        self.num_outs = num_outs

        def norm(channels: int) -> nn.Module:
            return build_norm_layer(norm_cfg, channels)[1]

        def double(channels: int) -> nn.Module:
            return nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)

        def level(channels: int, *resample: nn.Module) -> nn.Sequential:
            return nn.Sequential(
                *resample,
                nn.Conv2d(channels, out_channels, 1, bias=False),
                norm(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                norm(out_channels),
            )

        half, quarter = in_channels // 2, in_channels // 4
        self.levels = nn.ModuleList(
            [
                level(
                    quarter, double(in_channels), norm(half), nn.GELU(), double(half)
                ),
                level(half, double(in_channels)),
                level(in_channels),
                level(in_channels, nn.MaxPool2d(2)),
            ]
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs (Sequence[Tensor]): One map (B, in_channels, H, W) of stride 16.

        Returns:
            tuple[Tensor]: ``num_outs`` maps (B, out_channels, H_i, W_i), finest first.

        Raises:
            ValueError: If the backbone gives more than one map.
        """
        inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
        if len(inputs) != 1:
            raise ValueError(
                f'SimpleFPN builds its pyramid from one map, the backbone gives '
                f'{len(inputs)}; set its out_indices to the last layer alone'
            )
        outs = [level(inputs[0]) for level in self.levels]
        if self.num_outs == 5:
            outs.append(nn.functional.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)
