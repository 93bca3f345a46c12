"""An initialiser that says what it loaded, and stops when the attention is incomplete.

mmengine's ``Pretrained`` loads with ``strict=False``: a wrong prefix loads nothing, and
training starts from noise with a warning among hundreds of lines. This one counts.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..registry import WEIGHT_INITIALIZERS
from .coverage import GROUPS, Coverage, check_charts, cover
from .files import CheckpointError, read_checkpoint, weights_in
from .layouts import to_ours

#: Where published files keep the backbone's weights, most specific first.
PREFIXES = ('backbone.', 'module.backbone.', 'module.', '')


def read_state_dict(checkpoint: str) -> Mapping[str, Tensor]:
    """Read a file and return its weights, whatever wraps them.

    Args:
        checkpoint (str): Path, URL or zoo name, as mmengine's loaders take it.

    Returns:
        Mapping[str, Tensor]: The state dict, on the CPU.

    Raises:
        FileNotFoundError: If a local file is missing.
        CheckpointError: If the file cannot be read or holds no state dict.
    """
    return weights_in(read_checkpoint(checkpoint), checkpoint)


def backbone_weights(
    state_dict: Mapping[str, Tensor], names: set[str], prefix: str | None
) -> dict[str, Tensor]:
    """Weights under ``prefix``, or under the usual prefix that fits ``names`` best."""

    def under(candidate: str) -> dict[str, Tensor]:
        return to_ours(
            {
                name[len(candidate) :]: value
                for name, value in state_dict.items()
                if name.startswith(candidate)
            }
        )

    candidates = PREFIXES if prefix is None else (prefix,)
    return max(map(under, candidates), key=lambda weights: len(names & weights.keys()))


def with_numbered_norm(
    weights: dict[str, Tensor], names: set[str]
) -> dict[str, Tensor]:
    """Swin's last output norm under its present name; old files of mmcls lack a number.

    Args:
        weights (dict[str, Tensor]): Weights of a backbone.
        names (set[str]): Names of the backbone that loads.
    """
    stages = [name.split('.')[1] for name in names if name.startswith('stages.')]
    if not stages:
        return weights
    number = max(map(int, stages))
    return {re.sub(r'^norm\.', f'norm{number}.', n): v for n, v in weights.items()}


@WEIGHT_INITIALIZERS.register_module()
class PretrainedBackbone:
    """Load a backbone's weights, report the coverage, refuse a partial attention.

    Understands checkpoints of mmpretrain, mmdet and mmseg that hold our backbone or the
    stock one, and the layouts of other projects, see :mod:`.layouts`. Use it as
    ``init_cfg=dict(type='mmmanikey.PretrainedBackbone', checkpoint=...)``.

    Args:
        checkpoint (str): Path, URL or zoo name, as mmengine loads it.
        prefix (str, optional): Prefix of the backbone in the file, such as
            ``'backbone.'``. ``None`` finds it. Defaults to None.
        allow_missing (Sequence[str]): Groups of parameters that may be missing, such
            as ``('key',)`` for a residual key on stock weights. Defaults to ``()``.

    Weights of any floating dtype load, converted to the backbone's. What the file may
    lack without being allowed to are output norms, which a classifier does without, and
    ViTDet's relative positions, each as a whole; they keep their start. A file that is
    refused leaves the backbone as it was.

    Raises:
        FileNotFoundError: If a local file is missing.
        CheckpointError: A ValueError with one sentence, and the table of what the file
            covers where that is the reason: if anything else is missing, misshapen or
            no number, if the number of charts differs, or if the file cannot be read.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        allow_missing: Sequence[str] = (),
    ) -> None:
        known = [group for group, _ in GROUPS]
        if unknown := sorted(set(allow_missing) - set(known)):
            raise ValueError(f'allow_missing names {unknown}, the groups are {known}')
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.allow_missing = tuple(allow_missing)

    def __call__(self, module: nn.Module) -> None:
        """Load into ``module`` and log the table of what was loaded.

        Args:
            module (nn.Module): The backbone.
        """
        table = self.load(module).table()
        MMLogger.get_current_instance().info(
            f'pretrained backbone from {self.checkpoint}\n{table}'
        )

    def load(self, module: nn.Module) -> Coverage:
        """Load into ``module`` and return what was loaded."""
        names = set(module.state_dict())
        weights = backbone_weights(read_state_dict(self.checkpoint), names, self.prefix)
        weights = with_numbered_norm(weights, names)
        check_charts(module, weights, self.checkpoint)
        coverage = cover(module, weights)
        if lacking := coverage.lacking(self.allow_missing):
            name, reason = next(iter(lacking.items()))
            raise CheckpointError(
                f'{self.checkpoint} lacks or misshapes {len(lacking)} parameters that '
                f'a pretrained backbone must bring, such as {name} ({reason}); check '
                f'the architecture, the key and the prefix\n{coverage.table()}'
            )
        names = [*coverage.loaded, *coverage.resized]
        module.load_state_dict(self.converted(module, weights, names), strict=False)
        return coverage

    def converted(
        self, module: nn.Module, weights: Mapping[str, Tensor], names: Sequence[str]
    ) -> dict[str, Tensor]:
        """The named weights in the dtype of the backbone, all of them finite."""
        own = module.state_dict()
        chosen = {name: weights[name].to(own[name].dtype) for name in names}
        for name, value in chosen.items():
            if not torch.isfinite(value).all():
                raise CheckpointError(
                    f'{self.checkpoint} holds values in {name} that are not finite'
                )
        return chosen
