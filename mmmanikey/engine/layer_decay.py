"""Layer-wise learning-rate decay for our backbones, in any of the frameworks.

BEiT (https://arxiv.org/abs/2106.08254, Appendix) and ViTDet
(https://arxiv.org/abs/2203.16527, Appendix): the learning rate shrinks by a constant
factor from each layer to the one below it.
"""

from functools import partial

from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

#: Parts of the names of positions, class token and registers: no weight decay.
FREE_OF_DECAY = (
    'pos_embed',
    'cls_token',
    'register_tokens',
    'rel_pos_h',
    'rel_pos_w',
    'relative_position_bias_table',
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's constructor for a detector, segmentor or classifier of ours.

    The depth of a parameter comes from the backbone's ``get_layer_depth``; neck and
    heads are the last layer, at the full rate. Parameters of one dimension (norms,
    biases, layer scales), positions, class token and registers get no weight decay, and
    neither do the charts' scales (see ``mmmanikey/keys/decay.py``). ``paramwise_cfg``
    may say otherwise.

    Args:
        optim_wrapper_cfg (dict): As in mmengine.
        paramwise_cfg (dict, optional): ``layer_decay_rate`` (float, default 1.0) and
            what mmpretrain's constructor takes; or, as for mmdet's, mmseg's and
            ViTDet's constructors, ``decay_rate`` and ``decay_type='layer_wise'``, where
            ``num_layers`` is not needed. Defaults to None.

    Raises:
        ValueError: If the rate is not in (0, 1] or given twice, ``decay_type`` is
            another, or the optimiser says no ``weight_decay``.
        TypeError: If the model's backbone has no ``get_layer_depth``.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        words = [w for w in ('layer_decay_rate', 'decay_rate') if w in paramwise_cfg]
        if len(words) > 1:
            raise ValueError(f'{" and ".join(words)} are the same, give one of them')
        rate = paramwise_cfg.pop('decay_rate', 1.0)
        rate = paramwise_cfg.setdefault('layer_decay_rate', rate)
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f'layer_decay_rate must be in (0, 1], got {rate!r}')
        kind = paramwise_cfg.get('decay_type', 'layer_wise')
        if 'layer_wise' not in kind:
            raise ValueError(f"decay_type must be 'layer_wise', got {kind!r}")
        if optim_wrapper_cfg['optimizer'].get('weight_decay') is None:
            raise ValueError(
                'layer-wise decay wants the weight_decay of the optimizer, 0.0 for none'
            )
        paramwise_cfg.setdefault('flat_decay_mult', 0.0)
        paramwise_cfg['custom_keys'] = {
            **{name: dict(decay_mult=0.0) for name in FREE_OF_DECAY},
            **paramwise_cfg.get('custom_keys', {}),
        }
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(
        self, params: list, module: nn.Module, prefix: str = '', **kwargs
    ) -> None:
        """Add the parameter groups of ``module``, see mmpretrain's constructor."""
        if kwargs.get('get_layer_depth') is None:
            backbone = getattr(module, 'backbone', None)
            if not hasattr(backbone, 'get_layer_depth'):
                raise TypeError(
                    'layer-wise decay needs a model whose backbone has '
                    f'get_layer_depth; {type(module).__name__} has '
                    f'{type(backbone).__name__}'
                )
            kwargs['get_layer_depth'] = partial(
                backbone.get_layer_depth, prefix='backbone.'
            )
        super().add_params(params, module, prefix=prefix, **kwargs)
