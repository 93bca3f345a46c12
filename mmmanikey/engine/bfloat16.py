"""Training with the backbone in bfloat16 and everything after it in float32.

Under autocast as a whole a detector's heads compute in bfloat16 as well, which mmcv's
operators (NMS, RoIAlign) do not take. The backbone does most of the arithmetic.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import nn

from ..overrides import overridden
from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bfloat16BackboneOptimWrapper(OptimWrapper):
    """Autocasts the backbone to bfloat16 in training steps, on any device.

    Our backbones hand their maps on in float32. The weights stay in float32, gradients
    need no scaling, and validation is as without it. Arguments are those of mmengine's
    ``OptimWrapper``. For classifiers and segmentors mmengine's
    ``AmpOptimWrapper(dtype='bfloat16')`` casts heads as well.

    Examples:
        >>> optim_wrapper = dict(
        ...     type='mmmanikey.Bfloat16BackboneOptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=1e-4),
        ... )
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Within it the backbone of ``model`` computes in bfloat16.

        Raises:
            TypeError: If the model has none.
        """
        model_itself = model.module if is_model_wrapper(model) else model
        backbone = getattr(model_itself, 'backbone', None)
        if backbone is None:
            raise TypeError(
                'Bfloat16BackboneOptimWrapper trains models with a backbone, and '
                f'{type(model_itself).__name__} has none'
            )
        device = next(backbone.parameters()).device.type
        forward = torch.autocast(device, torch.bfloat16)(backbone.forward)
        # afterwards there is again what was there, such as a compiled forward
        with (
            overridden(vars(backbone), forward=forward),
            super().optim_context(model),
        ):
            yield
