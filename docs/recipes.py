"""The tables of the recipes: our configs' numbers beside those of the originals.

Ours, and those of the installed frameworks, are read from the configs. Those of other
repositories stand in ``recipes.yml`` with the files that they were taken from.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import yaml
from mmengine.config import Config

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / 'docs/recipes.yml'
PLACE = '<!-- table: {} -->'
NONE = '–'


class Row(NamedTuple):
    """A number here and in the originals, and why they differ.

    Args:
        what (str): What the number is.
        here (str): Ours.
        originals (list[str]): One for each original; NONE if it has no such model.
        why (str): The reason if one of them differs, else empty.
    """

    what: str
    here: str
    originals: list[str]
    why: str

    @property
    def differs(self) -> bool:
        return any(value not in (self.here, NONE) for value in self.originals)


@cache
def read(name: str) -> Config:
    """A config of ours (``mask_rcnn_swin_t``), or a framework's (``mmdet::...``)."""
    module, separator, path = name.rpartition('::')
    if not separator:
        path = ROOT / f'configs/{path}.py'
    else:
        path = Path(import_module(module).__path__[0], '.mim/configs', f'{path}.py')
    return Config.fromfile(path, import_custom_modules=False)


def innermost(dataset: dict) -> dict:
    """A dataset without its wrappers."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def transforms(cfg: Config, phase: str = 'train') -> dict[str, dict]:
    """The transforms of a phase, by their type."""
    pipeline = innermost(cfg[f'{phase}_dataloader']['dataset'])['pipeline']
    return {transform['type']: transform for transform in pipeline}


def rate(cfg: Config) -> str:
    return f'{cfg.optim_wrapper.optimizer.lr:g}'


def batch(cfg: Config) -> str:
    return str(cfg.auto_scale_lr.base_batch_size)


def weight_decay(cfg: Config) -> str:
    return f'{cfg.optim_wrapper.optimizer.weight_decay:g}'


def exempt(cfg: Config) -> str:
    """What has no weight decay; the charts' scales, which are ours alone, left out."""
    wrapper = cfg.optim_wrapper
    paramwise, keys = (
        wrapper.paramwise_cfg,
        wrapper.paramwise_cfg.get('custom_keys', {}),
    )
    ours = 'LayerDecay' in wrapper.get('constructor', '')  # exempts all of them itself
    free = {
        'norms': ours or paramwise.get('norm_decay_mult') == 0 or 'norm' in keys,
        'biases': ours or paramwise.get('bias_decay_mult') == 0,
        'positions': ours or any('pos' in key for key in keys),
    }
    return ', '.join(name for name, is_free in free.items() if is_free)


def layer_decay(cfg: Config) -> str:
    return f'{cfg.optim_wrapper.paramwise_cfg.layer_decay_rate:g}'


def warm_up(cfg: Config) -> str:
    scheduler = cfg.param_scheduler[0]
    unit = 'epochs' if scheduler.by_epoch else 'iterations'
    start = scheduler.start_factor * cfg.optim_wrapper.optimizer.lr
    return f'{scheduler.end} {unit} from {start:g}'


def schedule(cfg: Config) -> str:
    scheduler, dataset = cfg.param_scheduler[-1], cfg.train_dataloader.dataset
    if 'max_iters' in cfg.train_cfg:
        is_linear = (scheduler.type, scheduler.power) == ('PolyLR', 1.0)
        decay = 'linear' if is_linear else scheduler.type
        return f'{cfg.train_cfg.max_iters} iterations, {decay} to {scheduler.eta_min:g}'
    times = dataset.get('times', 1)
    length = f'{cfg.train_cfg.max_epochs * times} epochs'
    if scheduler.type == 'CosineAnnealingLR':
        return f'{length}, cosine to {scheduler.eta_min:g}'
    first, second = (step * times for step in scheduler.milestones)
    return f'{length}, steps at {first} and {second}'


def sizes(cfg: Config) -> str:
    """Random sizes of the images in training."""
    found = transforms(cfg)
    if 'RandomChoice' in found:
        return 'several, half after a crop'
    if 'RandomResize' in found:
        low, high = found['RandomResize']['ratio_range']
        crop = found['RandomCrop']['crop_size'][0]
        return f'scaled by {low:g} to {high:g}, crops of {crop}'
    return '{} x {}'.format(*found['Resize']['scale'])


def mixing(cfg: Config) -> str:
    """Augmentation of classifiers."""
    found = transforms(cfg)
    policy, erasing = found['RandAugment'], found['RandomErasing']
    mix = {augment.type: augment.alpha for augment in cfg.model.train_cfg.augments}
    return (
        f'RandAugment {policy["magnitude_level"]}±{policy["magnitude_std"]:g}, '
        f'erasing {erasing["erase_prob"]:g}, Mixup {mix["Mixup"]:g}, '
        f'CutMix {mix["CutMix"]:g}, '
        f'smoothing {cfg.model.head.loss.label_smooth_val:g}'
    )


def repeated(cfg: Config) -> str:
    return 'yes' if 'RepeatAug' in cfg.train_dataloader.sampler.type else 'no'


def test_size(cfg: Config) -> str:
    """Size of an image in the test."""
    found = transforms(cfg, 'test')
    if 'CenterCrop' in found:
        side, crop = found['ResizeEdge']['scale'], found['CenterCrop']['crop_size']
        return f'{side}, crop of {crop}'
    size = '{} x {}'.format(*found['Resize']['scale'])
    divisor = cfg.model.data_preprocessor.get('pad_size_divisor', 1)
    return f'{size}, padded to it' if divisor > 32 else size


def padding(cfg: Config) -> str:
    """What a padded image is padded with."""
    if pad := transforms(cfg, 'test').get('Pad'):
        return str(pad.get('pad_val', 0))
    value = cfg.model.data_preprocessor.get('pad_value', 0)  # after normalisation
    return 'mean of ImageNet' if value == 0 else f'{value:g}'


def precision(cfg: Config) -> str:
    is_mixed = cfg.optim_wrapper.get('type') == 'AmpOptimWrapper'
    return 'float16' if is_mixed else 'float32'


def communication(cfg: Config) -> str:
    """Precision of the gradients that processes exchange."""
    hooks = [hook['type'] for hook in cfg.get('custom_hooks', [])]
    return 'float16' if any('Fp16' in hook for hook in hooks) else 'float32'


def clipping(cfg: Config) -> str:
    clip = cfg.optim_wrapper.get('clip_grad')
    return f'{clip["max_norm"]:g}' if clip else 'none'


def averaging(cfg: Config) -> str:
    for hook in cfg.get('custom_hooks', []):
        if hook['type'] == 'EMAHook':
            return f'{1 - hook["momentum"]:g}'
    return 'none'


def drop_path(cfg: Config) -> str:
    return f'{cfg.model.backbone.get("drop_path_rate", 0.0):g}'


def first_weights(cfg: Config) -> str:
    file = cfg.model.backbone.init_cfg.stock.rpartition('/')[2]
    return next(name for name in ('DeiT', 'MAE', 'Swin') if name.lower() in file)


def position_table(cfg: Config) -> str:
    side = cfg.model.backbone.img_size // 16
    return f'{side} x {side}'


def attention(cfg: Config) -> str:
    backbone = cfg.model.backbone
    indexes = ', '.join(map(str, backbone.global_attn_indexes))
    return f'windows of {backbone.window_size}, global in {indexes}'


def box_head(cfg: Config) -> dict:
    head = cfg.model.roi_head.bbox_head
    return head[0] if isinstance(head, list) else head


def rpn_layers(cfg: Config) -> str:
    return str(cfg.model.rpn_head.get('num_convs', 1))


def rpn_loss(cfg: Config) -> str:
    return cfg.model.rpn_head.loss_bbox.type.removesuffix('Loss')


def box_layers(cfg: Config) -> str:
    head = box_head(cfg)
    convs, fcs = head.get('num_shared_convs', 4), head.get('num_shared_fcs', 1)
    is_layer_norm = 'LN' in head['norm_cfg']['type']
    norm = 'LayerNorm' if is_layer_norm else head['norm_cfg']['type']
    return f'{convs} convolutions with {norm}, {fcs} linear layer'


def box_loss(cfg: Config) -> str:
    loss = box_head(cfg).get('loss_bbox') or cfg.model.roi_head.bbox_head.loss_bbox
    return f'{loss["type"].removesuffix("Loss")}, weight {loss["loss_weight"]:g}'


def class_agnostic(cfg: Config) -> str:
    return 'yes' if box_head(cfg)['reg_class_agnostic'] else 'no'


def stage_weights(cfg: Config) -> str:
    return ', '.join(f'{weight:g}' for weight in cfg.model.roi_head.stage_loss_weights)


def proposals(cfg: Config) -> str:
    return str(cfg.model.train_cfg.rpn_proposal.max_per_img)


def test_mode(cfg: Config) -> str:
    return cfg.model.test_cfg.mode


def last_norm(cfg: Config) -> str:
    default = cfg.model.backbone.type == 'mmmanikey.ManifoldKeyViT'  # mmpretrain's
    return 'yes' if cfg.model.backbone.get('final_norm', default) else 'no'


def families() -> dict[str, dict]:
    """What ``recipes.yml`` says, by the place of the table."""
    return yaml.safe_load(DATA.read_text())


def rows(family: dict) -> list[Row]:
    """The rows of a family's table."""
    readers: dict[str, Callable[[Config], str]] = globals()
    found = []
    for entry in family['rows']:
        reader = readers[entry['read']]
        originals = [
            reader(read(value)) if '::' in str(value) else str(value)
            for value in entry['originals']
        ]
        here = reader(read(entry['config']))
        found.append(Row(entry['what'], here, originals, entry.get('why', '')))
    return found


def table(family: dict) -> str:
    """A family's table, and below it the reason for each difference."""
    lines = [
        f'| | here | {" | ".join(family["originals"])} |',
        f'|---|---|{"---|" * len(family["originals"])}',
    ]
    reasons: dict[str, list[str]] = {}
    for row in rows(family):
        lines.append(f'| {row.what} | {row.here} | {" | ".join(row.originals)} |')
        if row.differs:
            reasons.setdefault(row.why, []).append(row.what)
    sources = [f'[{name}]({url})' for name, url in family['sources'].items()]
    lines += ['', f'Taken from {", ".join(sources)}.', '']
    lines += [f'- **{"**, **".join(what)}**: {why}' for why, what in reasons.items()]
    return '\n'.join(lines)


def tables(page: str) -> str:
    """The page with the tables in their places."""
    for name, family in families().items():
        page = page.replace(PLACE.format(name), table(family))
    return page
