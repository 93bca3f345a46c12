"""An initialiser that says what it loaded, and stops when the attention is incomplete.

mmengine's ``Pretrained`` loads with ``strict=False``: with a wrong prefix it loads
nothing, and training starts from noise, with one warning among hundreds of lines. Here
everything is counted.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from ..arguments import is_list, switch
from ..registry import WEIGHT_INITIALIZERS
from .coverage import GROUPS, Coverage, check_charts, cover, group_of
from .entries import SHOWN
from .files import CheckpointError, read_checkpoint
from .find import CLASSIFIER_NORM, PATCH_EMBEDDING, find_backbone
from .layouts import LAYOUTS
from .pretraining import file_to_start_from


def fitting(module: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """How many of the weights the backbone would take."""
    coverage, _ = cover(module, weights)
    return len(coverage.loaded) + len(coverage.resized)


def with_summed_channels(
    weights: Mapping[str, Tensor], module: nn.Module
) -> dict[str, Tensor]:
    """Weights of a patch embedding of images with one channel, from those of several.

    The sum gives on a grey image what the file gives on three equal channels, as in
    timm (``adapt_input_conv`` in timm/models/_manipulate.py,
    https://github.com/huggingface/pytorch-image-models). Other weights stay.
    """
    weights = copy.copy(weights)
    own = module.state_dict().get(PATCH_EMBEDDING)
    value = weights.get(PATCH_EMBEDDING)
    if has_one_channel(own) and value is not None and value.dim() == 4:
        total = value.sum(
            dim=1, keepdim=True, dtype=torch.promote_types(value.dtype, torch.float32)
        )
        weights[PATCH_EMBEDDING] = total.to(value.dtype)
    return weights


def has_one_channel(patch: Tensor | None) -> bool:
    """Whether this patch embedding is one of images with one channel."""
    return patch is not None and patch.dim() == 4 and patch.shape[1] == 1


def check_groups(argument: str, groups: Sequence[str]) -> None:
    """Raise an error unless these are groups of parameters."""
    if not is_list(groups):
        raise TypeError(f'{argument} must be a list of groups, got {groups!r}')
    known = [group for group, _ in GROUPS]
    if argument == 'allow_missing':
        known.remove('key')
        if 'key' in groups:
            raise ValueError(
                f"allow_missing={groups!r} no longer takes 'key', leave it out: a key "
                f'with residual=True in its config may be missing as a whole anyhow, '
                f'and no other key may'
            )
    if unknown := sorted(set(groups) - set(known)):
        raise ValueError(f'{argument} names {unknown}, the groups are {known}')


def lacking_words(
    lacking: Mapping[str, str], coverage: Coverage, module: nn.Module
) -> str:
    """Why a file is refused that lacks or misshapes parameters, and the remedy."""
    name, reason = next(iter(lacking.items()))
    groups = tuple(dict.fromkeys(map(group_of, lacking)))
    advice = 'check the architecture, the key and the prefix'
    if [*lacking] == [PATCH_EMBEDDING] and name in coverage.misshapen:
        own = module.state_dict()[PATCH_EMBEDDING]
        advice = (
            f'the backbone is of images with {own.shape[1]} channels, in patches of '
            f'{own.shape[2]} x {own.shape[3]}'
        )
        if has_one_channel(own):
            advice += ", and sum_channels=True sums the file's"
    if arguments := dict.fromkeys(filter(None, coverage.arguments.values())):
        advice += f'; its other weights ask for {", ".join(arguments)}'
    elif len(groups) == 1 and groups != ('key',):
        advice += f'; allow_missing={groups!r} leaves these at their start'
    broken = dict.fromkeys(map(coverage.residual_key_of, lacking))
    if None not in broken:
        key = next(iter(broken))
        parts = ', '.join(
            f'{name.removeprefix(f"{key}.")} ({reason})'
            for name, reason in lacking.items()
            if coverage.residual_key_of(name) == key
        )
        return (
            f'holds only a part of {len(broken)} residual keys, where it must hold all '
            f'or nothing of each, such as {key} without {parts}; {advice}'
        )
    return (
        f'lacks or misshapes {len(lacking)} parameters that a pretrained backbone must '
        f'bring, such as {name} ({reason}); {advice}'
    )


def unknown_words(weights: Mapping[str, Tensor]) -> str:
    """Why a file is refused whose names are those of no known project."""
    examples = ', '.join([*weights][:SHOWN]) + (', ...' if len(weights) > SHOWN else '')
    known = ', '.join(layout.name for layout in LAYOUTS)
    return (
        f'names its weights as no known project does ({examples}); rename them as one '
        f'of these does ({known}), or give the prefix that the backbone stands under'
    )


def unplaced_words(unplaced: Mapping[str, str | None]) -> str:
    """Why a file is refused that the backbone has no place for, and the remedy."""
    names = [*unplaced]
    groups = tuple(dict.fromkeys(map(group_of, names)))
    arguments = dict.fromkeys(filter(None, unplaced.values()))
    remedy = (
        f'build it with {", ".join(arguments)}' if arguments else 'check its arguments'
    )
    return (
        f'holds {len(names)} weights that the backbone has no place for, such as '
        f'{", ".join(names[:SHOWN])}; {remedy}, or throw these away with '
        f'allow_unexpected={groups!r}'
    )


@WEIGHT_INITIALIZERS.register_module()
class PretrainedBackbone:
    """Load a backbone's weights, report the coverage, refuse a partial attention.

    Understands checkpoints of mmpretrain, mmdet and mmseg that hold our backbone or the
    stock one, and the layouts of other projects, see :mod:`.layouts`, in whatever
    entry and under whatever prefix they stand, see :mod:`.find`. Use it as
    ``init_cfg=dict(type='mmmanikey.PretrainedBackbone', checkpoint=...)``.

    Args:
        checkpoint (str, optional): Path, URL or zoo name, as mmengine loads it. Without
            it a backbone whose keys are linear or residual takes ``stock``, and any
            other one what the shipped pretraining of its arch and key writes, see
            :mod:`.pretraining`. Defaults to None.
        prefix (str, optional): Prefix of the backbone in the file, such as
            ``'backbone.'``. ``None`` finds it. Defaults to None.
        allow_missing (Sequence[str]): Groups of parameters that may be missing, such
            as ``('patch embedding',)`` for images with other channels. They keep their
            start. Groups are 'patch embedding', 'norms', 'relative positions',
            'attention', 'MLP', 'positions' and 'other'. Defaults to ``()``.
        allow_unexpected (Sequence[str]): Groups, or 'key', of which the file may hold
            weights that the backbone has no place for. They are thrown away. Defaults
            to ``()``.
        ema (bool): Take the averaged weights of a file that holds both kinds (timm's
            ``state_dict_ema``, DINO's ``teacher``). With mmengine's ``EMAHook`` the
            weights are the averaged ones either way. Defaults to False.
        sum_channels (bool): For a backbone with ``in_channels=1``, sum the channels of
            the file's patch embedding. Defaults to False.
        stock (str, optional): Weights of the stock network, where the config does not
            name a ``checkpoint``. Defaults to None.
        classifier_norm (bool): Take the norm before a Swin classifier's head for that
            of the last map, as mmpretrain does. mmdet and mmseg start that one anew.
            Defaults to True.

    Weights of any floating dtype load, converted to the backbone's. What the file may
    lack without being allowed to are residual keys, output norms, which a classifier
    does without, ViTDet's relative positions, and a Swin's fifth stage, each as a
    whole; they keep their start. Weights of a backbone that find no place are refused;
    heads, necks, decoders and mask tokens are left out, and so is what the backbone
    does without by design: the class token without ``with_cls_token``, final norms, and
    output norms of other stages. A file that is refused leaves the backbone as it was.

    Raises:
        FileNotFoundError: If a local file is missing.
        CheckpointError: A ValueError with one sentence, and the table of what the file
            covers where that is the reason: if anything else is missing, misshapen, no
            number or without a place, if the number of charts differs, or if the file
            cannot be read or holds no backbone.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        prefix: str | None = None,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        ema: bool = False,
        sum_channels: bool = False,
        stock: str | None = None,
        classifier_norm: bool = True,
    ) -> None:
        check_groups('allow_missing', allow_missing)
        check_groups('allow_unexpected', allow_unexpected)
        self.checkpoint = checkpoint
        self.stock = stock
        self.prefix = prefix and prefix.removesuffix('.') + '.'
        self.allow_missing = tuple(allow_missing)
        self.allow_unexpected = tuple(allow_unexpected)
        self.ema = switch('ema', ema)
        self.sum_channels = switch('sum_channels', sum_channels)
        self.classifier_norm = switch('classifier_norm', classifier_norm)

    def __call__(self, module: nn.Module) -> None:
        """Load into ``module`` and log where from, and the table of what was loaded.

        Args:
            module (nn.Module): The backbone.
        """
        coverage = self.load(module)
        MMLogger.get_current_instance().info(
            f'pretrained backbone from {self.file_for(module)}: {coverage}'
        )

    def file_for(self, module: nn.Module) -> str:
        """The checkpoint, or the one that follows from the backbone's arch and key."""
        if self.checkpoint is not None:
            return self.checkpoint
        backbone = module.as_config() if hasattr(module, 'as_config') else {}
        return file_to_start_from(dict(backbone=backbone), stock=self.stock)

    def load(self, module: nn.Module) -> Coverage:
        """Load into ``module`` and return what was loaded."""
        checkpoint = self.file_for(module)
        found = find_backbone(
            read_checkpoint(checkpoint),
            checkpoint,
            prefix=self.prefix,
            ema=self.ema,
            fit=partial(fitting, module),
            names=module.state_dict().keys(),
            leave_out=() if self.classifier_norm else CLASSIFIER_NORM,
        )
        weights = found.weights
        if self.sum_channels:
            weights = with_summed_channels(weights, module)
        check_charts(module, weights, checkpoint)
        coverage, adapted = cover(module, weights)
        coverage.source = str(found)
        if lacking := coverage.lacking(self.allow_missing):
            if found.layout is None and coverage.mostly_missing():
                raise CheckpointError(f'{checkpoint} {unknown_words(weights)}')
            raise CheckpointError(
                f'{checkpoint} {lacking_words(lacking, coverage, module)}\n'
                f'{coverage.table()}'
            )
        if unplaced := coverage.unplaced(self.allow_unexpected):
            raise CheckpointError(
                f'{checkpoint} {unplaced_words(unplaced)}\n{coverage.table()}'
            )
        names = [*coverage.loaded, *coverage.resized]
        own = module.state_dict()
        chosen = {name: adapted[name].to(own[name].dtype) for name in names}
        for name, value in chosen.items():
            if not torch.isfinite(value).all():
                raise CheckpointError(
                    f'{checkpoint} holds values in {name} that are not finite'
                )
        module.load_state_dict(chosen, strict=False)
        return coverage
