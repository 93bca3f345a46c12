"""FSDP through mmengine's FlexibleRunner: what is sharded, and what mmengine lacks.

FSDP: Zhao et al., https://arxiv.org/abs/2304.11277, in PyTorch's
``FullyShardedDataParallel``. The config is ``configs/_base_/fsdp.py``.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine._strategy import FSDPStrategy
from mmengine._strategy.fsdp import FSDP_CONFIGS
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper
from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import nn
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    ShardedOptimStateDictConfig,
    ShardedStateDictConfig,
)
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from ..checkpoint.files import CheckpointError, is_local
from ..registry import FUNCTIONS, STRATEGIES

for config in (ShardedStateDictConfig, ShardedOptimStateDictConfig):
    FSDP_CONFIGS.register_module(module=config, force=True)


@FUNCTIONS.register_module()
def wrap_blocks(
    module: nn.Module, recurse: bool, nonwrapped_numel: int | None = None
) -> bool:
    """Wrap policy of FSDP: every block of Swin or ViT is a unit, the rest is another.

    Nothing inside a block may be a unit of its own: attention and keys read the weights
    of their layers without calling them.

    Args:
        module (nn.Module): The module asked about.
        recurse (bool): Whether the question is to look inside it; always answered yes.
        nonwrapped_numel (int, optional): Parameters not wrapped so far; not used.
            Defaults to None.

    Returns:
        bool: The answer.
    """
    return recurse or isinstance(module, (SwinBlock, TransformerEncoderLayer))


@contextmanager
def unsharded(model: FullyShardedDataParallel) -> Iterator[None]:
    """Within it parameters have the names and dimensions of before the wrapping."""
    units = [
        (parent._modules, name, unit)
        for parent in model.modules()
        for name, unit in parent.named_children()
        if isinstance(unit, FullyShardedDataParallel)
    ]
    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        for children, name, unit in units:
            children[name] = unit.module
        try:
            yield
        finally:
            for children, name, unit in units:
                children[name] = unit


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """mmengine's FSDPStrategy, which also resumes, and also runs on CPUs.

    mmengine's own stops there: it calls ``FSDP.optim_state_dict_to_load`` with the
    arguments in the order that they had before PyTorch 2.1; it takes the local rank for
    a GPU and moves checkpoints off it, also where there is none. It forgets what the
    wrapper of the optimiser keeps, such as the loss scale. It clips gradients by the
    norm of the part that each process holds, not by that of all. And it shows the
    constructor of the optimiser the parts, which have one dimension, by which
    ``flat_decay_mult`` took all of them for biases.

    ``state_dict_cfg`` may be ``'full'``, for checkpoints that are files as of one
    process, ``'local'``, for folders with a part for each process, or mmengine's dict,
    in which we also know ``ShardedStateDictConfig`` and
    ``ShardedOptimStateDictConfig``.
    """

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if get_device() == 'cpu':
            wrapper = self.model_wrapper or dict(type='MMFullyShardedDataParallel')
            self.model_wrapper = dict(wrapper, device_id='cpu')
            # It is there already; PyTorch would read what it has just freed.
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False
        return super()._wrap_model(model)

    def build_optim_wrapper(
        self, optim_wrapper: Optimizer | OptimWrapper | dict, model: nn.Module
    ) -> OptimWrapper:
        """Build it as mmengine does, but from whole parameters.

        The norm to clip by is that of all processes.
        """
        with unsharded(model):
            built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, 'clip_func', None) is clip_grad_norm_:
            built.clip_func = lambda _, **kwargs: model.clip_grad_norm_(**kwargs)
        return built

    def optim_state_dict(self) -> dict:
        """The optimiser's state as FSDP gathers it, and what its wrapper adds to it.

        Returns:
            dict: ``state`` and ``param_groups`` by the names of the parameters, and
            what else the wrapper keeps, such as the loss scale of ``AmpOptimWrapper``.
        """
        wrapped = self.optim_wrapper.state_dict()
        del wrapped['state'], wrapped['param_groups']
        return {**super().optim_state_dict(), **wrapped}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Shard the state of a saved optimiser and load it.

        Args:
            state_dict (dict): What :meth:`optim_state_dict` returned.
        """
        optimizer = self.optim_wrapper.optimizer
        gathered = {name: state_dict.pop(name) for name in ('state', 'param_groups')}
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            self.model, optimizer, gathered
        )
        self.optim_wrapper.load_state_dict({**state_dict, **sharded})

    def load_checkpoint(self, filename: str, **kwargs) -> dict:
        """Load a checkpoint as mmengine does.

        Args:
            filename (str): A file, or where state dicts are sharded a folder with a
                part for each process.
            **kwargs: Those of mmengine's method.

        Returns:
            dict: What else the checkpoint holds.

        Raises:
            CheckpointError: If it is of the other kind, or from another number of
                processes.
        """
        if self._is_full_state_dict():
            if os.path.isdir(filename):
                raise CheckpointError(
                    f'{filename} is a folder of sharded state dicts, and the strategy '
                    f"reads files: set its state_dict_cfg as it was, e.g. 'local'"
                )
        elif is_local(filename):
            parts = [f'rank{rank}.pth' for rank in range(get_world_size())]
            found = sorted(path.name for path in Path(filename).glob('rank*.pth'))
            if found != sorted(parts):
                raise CheckpointError(
                    f'{filename} must be a folder with a part for each of '
                    f'{len(parts)} processes, {parts[0]} to {parts[-1]}, and has '
                    f'{len(found)}: start as many as wrote it'
                )
        return super().load_checkpoint(filename, **kwargs)
