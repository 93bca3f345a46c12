"""What an arm costs: parameters and multiply-accumulates of its model."""

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmmanikey.registry import MODELS


def cost(cfg: Config) -> dict[str, int]:
    """Parameters and multiply-accumulates of a classifier.

    Args:
        cfg (Config): Its whole config.

    Returns:
        dict[str, int]: 'params' and, for one image, 'macs'.
    """
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model).eval()
    counter = FlopCounterMode(display=False)
    # torch's counter knows the plain forms of attention, not every fused one
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.zeros(1, 3, cfg.side, cfg.side))
    params = sum(parameter.numel() for parameter in model.parameters())
    return dict(params=params, macs=counter.get_total_flops() // 2)
