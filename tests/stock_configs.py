"""The configs of mmdet, mmseg and mmpretrain with a stock Swin or ViT in the model."""

import ast
import copy
import functools
import inspect
import json
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import init_default_scope

FRAMEWORKS = ('mmdet', 'mmseg', 'mmpretrain')
OURS = dict(SwinTransformer='ManifoldKeySwin', VisionTransformer='ManifoldKeyViT')
#: Classes that are near to these two and no network of ours, with the reason.
NOT_TAKEN = dict(
    DeiT3='its class token has no position, and the names of its sizes mean others',
    DistilledVisionTransformer='it has a distillation token',
    MAEViT='it masks its input, for pretraining',
    MAE='it is a BEiT, whose global attention has a table of relative positions',
    SimMIMSwinTransformer='it masks its input, for pretraining',
)
#: What a text config inherits from: one string or a list of them.
BASES = re.compile(
    r'^_base_ = (\[.*?\]|\(.*?\)|\S+)\s*(?:#.*)?$', re.DOTALL | re.MULTILINE
)
#: What makes no other network in eval mode.
NO_MATTER = ('drop_path_rate', 'drop_rate', 'with_cp', 'frozen_stages')
NO_MATTER += ('convert_weights', 'frozen_exclude', 'norm_eval')


def configs_of(framework):
    """The folder of the configs that come with a framework."""
    return Path(find_spec(framework).origin).parent / '.mim' / 'configs'


@functools.cache
def source_of(path):
    """The text of a config, and the files beside it that it inherits from."""
    text = path.read_text()
    match = BASES.search(text)
    named = ast.literal_eval(match[1]) if match else []
    named = [named] if isinstance(named, str) else named
    paths = [(path.parent / base).resolve() for base in named]
    return text, [base for base in paths if base.is_file()]


def mentions(path, kind):
    """Whether a config or what it inherits names this type; to read it takes longer."""
    text, bases = source_of(path)
    return f"'{kind}'" in text or any(mentions(base, kind) for base in bases)


@functools.cache
def read(framework, name):
    return Config.fromfile(configs_of(framework) / name)


def parts(node, kind, where=()):
    """(keys that lead there, config) of every part of a model with this type."""
    if isinstance(node, dict):
        if node.get('type') == kind:
            yield where, node
        for key, value in node.items():
            yield from parts(value, kind, (*where, key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from parts(value, kind, (*where, i))


@functools.cache
def found(framework, kind):
    """(config, keys that lead to the part) of every part of this type.

    What a user may start counts, not what is only inherited.
    """
    root = configs_of(framework)
    return [
        (str(path.relative_to(root)), where)
        for path in sorted(root.rglob('*.py'))
        if '_base_' not in path.parts and mentions(path, kind)
        for where, _ in parts(read(framework, str(path.relative_to(root))).model, kind)
    ]


def stock_class(framework, kind):
    init_default_scope(framework)
    return import_module(f'{framework}.registry').MODELS.get(kind)


def build(framework, cfg):
    init_default_scope(framework)
    return import_module(f'{framework}.registry').MODELS.build(copy.deepcopy(cfg))


def backbone_of(framework, name, where):
    """The stock backbone of a config, as its model builds it, with fewer layers."""
    model = read(framework, name).model
    part = model
    for key in where:
        part = part[key]
    cfg = copy.deepcopy(part)
    if framework == 'mmpretrain':  # the model's business, as it is in Flamingo
        cfg.pop('pretrained', None)
    elif weights := model.get('pretrained'):  # as mmseg's segmentors hand it on
        if where == ('image_encoder',):
            cfg.init_cfg = dict(type='Pretrained_Part', checkpoint=weights)
        else:
            cfg.pretrained = weights
    return shallow(framework, cfg)


def shallow(framework, cfg, most=2):
    """One layer, and more where shifted windows or several outputs need them.

    Args:
        framework (str): Whose class it is.
        cfg (ConfigDict): Config of the backbone, changed in place.
        most (int): Outputs of a ViT that are kept.
    """
    if isinstance(cfg.get('arch'), str):
        cfg.arch = dict(stock_class(framework, cfg.type).arch_zoo[cfg.arch.lower()])
    sizes = cfg.get('arch', cfg)
    if 'depths' in sizes:
        sizes['depths'] = [2] + [1] * (len(sizes['depths']) - 1)
        return cfg
    sizes['num_layers'] = 1
    if isinstance(cfg.get('out_indices'), (list, tuple)):
        sizes['num_layers'] = min(most, len(cfg.out_indices))
        cfg.out_indices = tuple(range(sizes['num_layers']))
    if cfg.get('frozen_stages', -1) > 0:
        cfg.frozen_stages = sizes['num_layers']
    return cfg


def without_means(module, init_info):
    """In place of mmengine's function, which takes means of all for a line of its log.

    It is called for every part of a network, after its weights have started.
    """
    assert all(p in module._params_init_info for p in module.parameters()), init_info


def starts(cfg):
    """Whether the backbone loads weights of its own, not those of the whole model."""
    init_cfg = cfg.get('init_cfg')
    loads = isinstance(init_cfg, dict) and 'Pretrained' in init_cfg['type']
    return loads or bool(cfg.get('pretrained'))


def networks(framework, kind):
    """Each network that the configs have, and the configs which have it."""
    parameters = inspect.signature(stock_class(framework, kind)).parameters
    defaults = {n: p.default for n, p in parameters.items()}
    groups = {}
    for name, where in found(framework, kind):
        cfg = backbone_of(framework, name, where)
        same = {**defaults, **{n: v for n, v in cfg.items() if n not in NO_MATTER}}
        same = {n: v for n, v in same.items() if n not in NO_MATTER}
        loads = starts(cfg) and {**(cfg.get('init_cfg') or {}), 'checkpoint': None}
        same |= dict(init_cfg=loads, pretrained=bool(cfg.get('convert_weights')))
        groups.setdefault(json.dumps(same, sort_keys=True), []).append((name, where))
    return [*groups.values()]
