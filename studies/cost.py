"""What an arm costs: parameters and multiply-accumulates of its model."""

import torch
from mmengine.config import Config

from mmmanikey.engine.build import build_from
from mmmanikey.engine.macs import count_macs


def cost(cfg: Config) -> dict[str, int]:
    """Parameters and multiply-accumulates of a classifier.

    Args:
        cfg (Config): Its whole config.

    Returns:
        dict[str, int]: 'params' and, for one image, 'macs'.
    """
    model = build_from(cfg, whole=True).eval()
    macs = count_macs(lambda: model(torch.zeros(1, 3, cfg.side, cfg.side)))
    params = sum(parameter.numel() for parameter in model.parameters())
    return dict(params=params, macs=sum(macs.values()))
