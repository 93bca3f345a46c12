"""Distributed launches where there is no GPU."""

import mmcv.cnn  # noqa: F401, which registers SyncBN
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.registry import MODELS

from ..overrides import overridden


def prepare_launch(cfg: Config) -> None:
    """Make a distributed launch work where there is no GPU.

    mmengine binds every rank to a GPU, and wraps the model for one, whatever the
    backend is. So here the process group is made with gloo before the Runner does, and
    the wrapper is configured without a device. PyTorch's SyncBN runs on GPUs alone:
    each process takes the statistics of its own images.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu':
        return
    env_cfg = cfg.setdefault('env_cfg', ConfigDict())
    env_cfg.dist_cfg = {**env_cfg.get('dist_cfg', {}), 'backend': 'gloo'}
    with overridden(vars(torch.cuda), set_device=lambda device: None):
        init_dist(cfg.launcher, **env_cfg.dist_cfg)
    MODELS.register_module('SyncBN', force=True, module=torch.nn.BatchNorm2d)
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = {**wrapper, 'device_ids': None}
