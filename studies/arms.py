"""The arms of the study: what each changes in the common config, and nothing else.

``README.md`` is the protocol, written before the runs; a test holds its table of arms
equal to this file, and another one what an arm's config differs by.
"""

from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from .cost import cost

#: Raised when arms, recipe or measures change: results of another version do not count.
PROTOCOL = 1
ROOT = Path(__file__).resolve().parent
BACKBONES = ('swin', 'vit')
KEYS = ('SpatialK', 'VanillaK', 'SimpleK', 'KUA')
CHARTS = 8
LINEAR = 'linear'
#: Arms whose key is decided by question 1, and what they change in it.
OF_BEST = {
    'best-1-chart': dict(num_charts=1),
    'best-2-charts': dict(num_charts=2),
    'best-4-charts': dict(num_charts=4),
    'best-16-charts': dict(num_charts=16),
    'best-no-activation': dict(act_cfg=None),
}
DIGITS = 'digits'
SIZES = (1000, 5000, 20000)  # of question 7; 60,000 is question 1


@dataclass(frozen=True)
class Question:
    """A question, the arms that answer it, and how many seeds each gets.

    Args:
        title (str): The question.
        arms (tuple[str, ...]): Their names, compared with ``against``.
        seeds (int): Seeds 0 to ``seeds - 1``, which pair the arms.
        against (str): The arm that the others are compared with; in questions 7 and 8
            on the same images.
        backbones (tuple[str, ...]): On which backbones.
    """

    title: str
    arms: tuple[str, ...]
    seeds: int
    against: str = LINEAR  # on the same images
    backbones: tuple[str, ...] = BACKBONES


QUESTIONS = {
    1: Question('Does a key help?', (LINEAR, *KEYS), 10),
    2: Question(
        'Is it the parameters or the multiply-accumulates?',
        (LINEAR, 'wide-params', 'wide-macs', 'one-more-block', 'wide-chart', 'best'),
        5,
    ),
    3: Question('Is it the charts?', (*list(OF_BEST)[:4], 'best'), 5, 'best'),
    4: Question('Is it the nonlinearity?', ('best-no-activation', 'best'), 5, 'best'),
    5: Question(
        'Context broadcasting',
        (LINEAR, 'linear-broadcast', 'best', 'best-broadcast'),
        5,
    ),
    6: Question(
        'Does it carry over to dense prediction?',
        ('det-scratch', 'det-linear', 'det-best', 'det-residual'),
        5,
        'det-linear',
        ('swin',),
    ),
    7: Question(
        'How much data?',
        tuple(f'{arm}-{size}' for size in SIZES for arm in (LINEAR, 'best')),
        5,
    ),
    8: Question(
        'Does it hold for handwritten digits?',
        tuple(f'{arm}-{DIGITS}' for arm in (LINEAR, *KEYS)),
        10,
    ),
}


def key_config(name: str, backbone: str, **changes: object) -> dict:
    """A key of the study; SpatialK's window on a ViT is that of the Swin, 4 x 4."""
    key = dict(type=name, num_charts=CHARTS)
    if name == 'SpatialK' and backbone == 'vit':
        key['window_size'] = (4, 4)
    return {**key, **changes}


def changes_of(arm: str, backbone: str, best: str | None) -> dict:
    """What an arm of all questions but 6 changes in the config of the linear key.

    Args:
        arm (str): Its name.
        backbone (str): 'swin' or 'vit'.
        best (str, optional): The key that question 1 decided on, where it has.

    Returns:
        dict: For :meth:`mmengine.config.Config.merge_from_dict`.

    Raises:
        ValueError: If the arm is unknown, or needs the best key before it is known.
    """
    base, images = split_arm(arm)
    if images:
        return {**changes_of(base, backbone, best), **images_of(images)}
    if arm == LINEAR:
        return {}
    if arm in KEYS:
        return {'model.backbone.key': key_config(arm, backbone)}
    if arm == 'wide-chart':
        key = key_config('VanillaK', backbone, num_charts=1, hidden_ratio=8.0)
        return {'model.backbone.key': key}
    if arm == 'linear-broadcast':
        return {'model.backbone.context_broadcasting': True}
    if arm == 'one-more-block':
        return one_more_block(backbone)
    if best is None:
        raise ValueError(f'{arm} needs the best key, which question 1 decides')
    if arm in ('best', 'best-broadcast'):
        changes = {'model.backbone.key': key_config(best, backbone)}
        if arm == 'best-broadcast':
            changes['model.backbone.context_broadcasting'] = True
        return changes
    if arm in OF_BEST:
        return {'model.backbone.key': key_config(best, backbone, **OF_BEST[arm])}
    if arm in ('wide-params', 'wide-macs'):
        return wide(arm.removeprefix('wide-'), backbone, best)
    raise ValueError(f'unknown arm {arm!r}')


def split_arm(arm: str) -> tuple[str, str]:
    """An arm's name without its images, and these: a number, 'digits' or ''."""
    base, _, images = arm.rpartition('-')
    if base and (images.isdigit() or images == DIGITS):
        return base, images
    return arm, ''


def images_of(images: str) -> dict:
    """The change of an arm that sees other images than all of Fashion-MNIST."""
    if images != DIGITS:
        return {'train_dataloader.dataset.num_images': int(images)}
    # no flips: a mirrored digit is another sign
    crop = [dict(type='RandomCrop', crop_size=8, padding=1)]
    last = [dict(type='Resize', scale=64), dict(type='PackInputs')]
    train = dict(type='StudyDigits', part='train', repeat_to=10000)
    return {
        'train_dataloader.dataset': dict(train, pipeline=crop + last),
        'val_dataloader.dataset': dict(type='StudyDigits', part='test', pipeline=last),
        'param_scheduler.0.end': 50,
    }


def one_more_block(backbone: str) -> dict:
    """The linear key with one more block, in Swin's last stage."""
    if backbone == 'swin':
        return {'model.backbone.arch.depths': [2, 2, 3]}
    return {'model.backbone.arch.num_layers': 6}


def config_of(arm: str, backbone: str, best: str | None = None) -> Config:
    """The whole config of an arm of all questions but 6."""
    cfg = Config.fromfile(ROOT / f'configs/{backbone}.py')
    for name, value in changes_of(arm, backbone, best).items():
        parent, _, last = name.rpartition('.')
        node = cfg
        for part in parent.split('.'):
            node = node[int(part) if part.isdigit() else part]
        node[last] = value  # replaced, not merged: a key is given whole
    return cfg


def wide(of: str, backbone: str, best: str) -> dict:
    """The linear key with MLPs as wide as the best key is expensive.

    Args:
        of (str): 'params' or 'macs': what shall be equal, within 1 %.
        backbone (str): 'swin' or 'vit'.
        best (str): The key.
    """
    # both grow with the width as a line does
    narrow, wider = (cost_with_ratio(backbone, of, ratio) for ratio in (4, 8))
    added = cost_of('best', backbone, best)[of] - narrow
    return mlp_ratio(backbone, 4 + 4 * added / (wider - narrow))


def mlp_ratio(backbone: str, ratio: float) -> dict:
    """Changes that make the hidden layers of all MLPs ``ratio`` times the channels."""
    if backbone == 'vit':
        return {'model.backbone.arch.feedforward_channels': round(48 * ratio)}
    stages = [
        dict(block_cfgs=dict(ffn_cfgs=dict(feedforward_channels=round(dims * ratio))))
        for dims in (24, 48, 96)
    ]
    return {'model.backbone.stage_cfgs': stages}


def cost_with_ratio(backbone: str, of: str, ratio: float) -> int:
    cfg = Config.fromfile(ROOT / f'configs/{backbone}.py')
    cfg.merge_from_dict(mlp_ratio(backbone, ratio))
    return cost(cfg)[of]


def cost_of(arm: str, backbone: str, best: str | None = None) -> dict[str, int]:
    """Parameters and multiply-accumulates of an arm's model for one image."""
    return cost(config_of(arm, backbone, best))
