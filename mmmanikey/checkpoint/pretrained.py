"""An initialiser that says what it loaded, and stops when the attention is incomplete.

mmengine's ``Pretrained`` loads with ``strict=False``: a wrong prefix loads nothing, and
training starts from noise with a warning among hundreds of lines. This one counts.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..registry import WEIGHT_INITIALIZERS
from .layouts import to_ours

#: Where published files keep the backbone's weights, most specific first.
PREFIXES = ('backbone.', 'module.backbone.', 'module.', '')
#: (group, pattern of parameter names); the first match counts.
GROUPS = (
    ('patch embedding', r'^patch_embed\.'),
    ('norms', r'(^|\.)(norm\d*|ln\d)\.'),
    ('key', r'\.key\.'),
    ('relative positions', r'\.rel_pos_[hw]$'),  # ViTDet's own, zero at the start
    ('attention', r'\.attn\.'),
    ('MLP', r'\.ffn\.'),
    ('other', r''),
)
#: Groups without which a pretrained backbone is none.
REQUIRED_GROUPS = ('attention', 'key', 'MLP', 'patch embedding')
#: Rebuilt by the model itself.
BUFFERS = ('relative_position_index',)
#: Resized by the model itself.
RESIZED = (
    'relative_position_bias_table',
    'absolute_pos_embed',
    'pos_embed',
    'rel_pos_h',
    'rel_pos_w',
    *BUFFERS,
)


def group_of(name: str) -> str:
    """Group of a parameter, see :data:`GROUPS`."""
    return next(group for group, pattern in GROUPS if re.search(pattern, name))


def is_local(checkpoint: str) -> bool:
    """Whether ``checkpoint`` is a path rather than a URL or a model-zoo name."""
    return '://' not in str(checkpoint)


def read_state_dict(checkpoint: str) -> dict[str, Tensor]:
    """Read a file and return its weights, whatever wraps them.

    Args:
        checkpoint (str): Path, URL or zoo name, as mmengine's loaders take it.

    Returns:
        dict[str, Tensor]: The state dict, on the CPU.

    Raises:
        FileNotFoundError: If a local file is missing.
        ValueError: If the file holds no state dict.
    """
    if is_local(checkpoint) and not os.path.isfile(checkpoint):
        raise FileNotFoundError(f'pretrained checkpoint not found: {checkpoint}')
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    for wrapper in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ValueError(f'{checkpoint} holds no state dict')
    weights = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if not weights:
        raise ValueError(f'{checkpoint} holds no tensors')
    return weights


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

    Raises:
        FileNotFoundError: If a local file is missing.
        ValueError: If attention, key, MLP or patch embedding are incomplete and not
            allowed to be.
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
        """Load into ``module``.

        Args:
            module (nn.Module): The backbone.
        """
        current = module.state_dict()
        weights = backbone_weights(
            read_state_dict(self.checkpoint), set(current), self.prefix
        )
        result = module.load_state_dict(fitting(weights, module), strict=False)
        missing = {n for n in result.missing_keys if not n.endswith(BUFFERS)}
        table = coverage_table(current, weights, missing)
        MMLogger.get_current_instance().info(
            f'pretrained backbone from {self.checkpoint}\n{table}'
        )
        required = set(REQUIRED_GROUPS) - set(self.allow_missing)
        if lacking := sorted(n for n in missing if group_of(n) in required):
            raise ValueError(
                f'{self.checkpoint} lacks or misshapes {len(lacking)} parameters that '
                f'a pretrained backbone must bring, such as {lacking[0]}; check the '
                f'architecture, the key and the prefix\n{table}'
            )


def fitting(weights: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Weights without misshapen ones, which then count as missing.

    Position tables and token mixing of another window stay: the module resizes them.
    """
    current = module.state_dict()
    mixing = {
        f'{name}.conv1.{kind}'
        for name, part in module.named_modules()
        if getattr(part, 'needs_window', False)
        for kind in ('weight', 'bias')
    }

    def fits(name: str, value: Tensor) -> bool:
        own = current[name]
        if name in mixing:
            return value.dim() == own.dim()
        if name.endswith(RESIZED):
            return value.dim() == own.dim() and value.shape[-1] == own.shape[-1]
        return value.shape == own.shape

    return {
        name: value
        for name, value in weights.items()
        if name not in current or fits(name, value)
    }


def coverage_table(
    current: Mapping[str, Tensor], weights: Mapping[str, Tensor], missing: set[str]
) -> str:
    """Loaded, missing and unexpected parameters by group, as text."""
    names = [name for name in current if not name.endswith(BUFFERS)]
    total = Counter(map(group_of, names))
    lost = Counter(map(group_of, missing))
    extra = Counter(group_of(name) for name in weights if name not in current)
    rows = [f'{"":20}{"loaded":>8}{"missing":>9}{"unexpected":>12}']
    for group, _ in GROUPS:
        if total[group] or extra[group]:
            loaded = total[group] - lost[group]
            rows.append(f'{group:20}{loaded:8}{lost[group]:9}{extra[group]:12}')
    return '\n'.join(rows)
