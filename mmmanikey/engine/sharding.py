"""FSDP through mmengine's FlexibleRunner: what is sharded, and what was in the way.

FSDP: Zhao et al., https://arxiv.org/abs/2304.11277, in PyTorch's
``FullyShardedDataParallel``. The config is ``configs/_base_/fsdp.py``.
"""

from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from ..registry import FUNCTIONS, STRATEGIES


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


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """mmengine's FSDPStrategy, which also resumes, and also runs on CPUs.

    mmengine's own stops there: it calls ``FSDP.optim_state_dict_to_load`` with the
    arguments in the order that they had before PyTorch 2.1; it takes the local rank for
    a GPU and moves checkpoints off it, also where there is none. And it clips gradients
    by the norm of the part that each process holds, not by that of all.
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
        """Build it as mmengine does; the norm to clip by is that of all processes."""
        built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, 'clip_func', None) is clip_grad_norm_:
            built.clip_func = lambda _, **kwargs: model.clip_grad_norm_(**kwargs)
        return built

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Shard the state of a saved optimiser and load it.

        Args:
            state_dict (dict): What ``optim_state_dict`` returned.
        """
        optimizer = self.optim_wrapper.optimizer
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            self.model, optimizer, state_dict
        )
        self.optim_wrapper.load_state_dict(sharded)
