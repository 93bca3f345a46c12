"""Two lines over every Swin and ViT of the frameworks' configs: the same network.

Every config of mmdet, mmseg and mmpretrain with a ``SwinTransformer`` or a
``VisionTransformer`` in its model gets our type and residual keys: on a Swin one of
each strategy, in stages that change with the network, and on the ViTs each in turn.
Networks have fewer layers, and equal ones are compared once; channels, windows, maps
and the way in which the weights load are the config's. ``-s`` prints the counts.
"""

import gc

import pytest
import stock_configs
import torch
from mmengine.model import base_module, weight_init
from oracles import STOCK_TOLERANCE, STRATEGIES, assert_same
from stock_configs import FRAMEWORKS, NOT_TAKEN, OURS, backbone_of, build, starts

KEYS = [dict(type=name, num_charts=2, residual=True) for name in STRATEGIES]
#: (Our name of a part, that in the files of Swin's authors)
OFFICIAL = (
    ('stages.', 'layers.'),
    ('attn.w_msa.', 'attn.'),
    ('ffn.layers.0.0.', 'mlp.fc1.'),
    ('ffn.layers.1.', 'mlp.fc2.'),
    ('patch_embed.projection.', 'patch_embed.proj.'),
)
FIFTH_STAGE = ('stages.3.downsample', 'stages.4', 'norm4')
README = stock_configs.Path(__file__).parents[2] / 'README.md'


def draw_(model):
    """Random values for every parameter, for weights of all networks from one table."""
    table = torch.rand(1 << 20)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            is_gain = parameter.dim() == 1 and name.endswith('weight')
            size = parameter.numel()
            start = torch.randint(1000, ()).item()
            values = table[start:].repeat(1 + size // (len(table) - start))[:size]
            low, high = (0.5, 1.5) if is_gain else (-scale, scale)
            parameter.copy_((values * (high - low) + low).view_as(parameter))


@pytest.fixture
def plain_start(monkeypatch):
    """Starts that are loaded over anyhow are constants, which are soon made."""
    cheap = dict(
        uniform_=lambda self, low=0.0, high=1.0, **_: self.fill_((low + high) / 2),
        normal_=lambda self, mean=0.0, std=1.0, **_: self.fill_(mean + std),
        erfinv_=lambda self: self,
    )
    for name, function in cheap.items():
        monkeypatch.setattr(torch.Tensor, name, function)
    for module in (weight_init, base_module):
        monkeypatch.setattr(module, 'update_init_info', stock_configs.without_means)


def file_of(framework, cfg, weights):
    """A file with these weights as the config's own would hold them."""
    if framework == 'mmpretrain':
        return dict(state_dict={f'backbone.{n}': v for n, v in weights.items()})
    if cfg.type == 'VisionTransformer':
        part = 'image_encoder.' if 'Part' in str(cfg.get('init_cfg')) else ''
        return {
            **{f'{part}{n}': v for n, v in weights.items()},
            'head.bias': torch.ones(2),
        }
    public = {  # a classifier of four stages
        name: value
        for name, value in weights.items()
        if not name.startswith(('norm', 'stages.3.downsample', 'stages.4'))
    }
    dims = public['stages.3.blocks.0.norm1.weight'].shape
    public |= {'norm.weight': torch.rand(dims), 'norm.bias': torch.rand(dims)}
    public['head.weight'] = torch.rand(2, *dims)
    if framework == 'mmdet':
        for ours, theirs in OFFICIAL:
            public = {name.replace(ours, theirs): v for name, v in public.items()}
    return dict(model=public)


def point_at(cfg, path):
    """Let the config load from this file."""
    if cfg.get('pretrained'):
        cfg.pretrained = str(path)
    else:
        cfg.init_cfg.checkpoint = str(path)


def image_of(cfg):
    """As small as the stock class takes it."""
    side = 96
    if cfg.type == 'SwinTransformer' and 'arch' in cfg and not cfg.get('pad_small_map'):
        side = cfg.img_size
    return torch.rand(1, cfg.get('in_channels', 3), side, side + 32) * 4 - 2


def flat(outputs):
    """The tensors of nested lists."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for each in outputs for tensor in flat(each)]


def keys_of(number, stock):
    """A key for each stage, or layer, of a network: the next strategy in each."""
    depth = len(stock.stages if hasattr(stock, 'stages') else stock.layers)
    return [KEYS[(number + i) % len(KEYS)] for i in range(depth)]


@torch.no_grad()
def check(framework, kind, number, name, where, folder):
    """The stock backbone of a config and ours, without and with keys, on one image."""
    cfg = backbone_of(framework, name, where)
    from_file = starts(cfg)
    if not from_file:
        cfg.pop('pretrained', None)
    alone = {n: v for n, v in cfg.items() if n not in ('init_cfg', 'pretrained')}
    stock = build(framework, alone)
    draw_(stock)
    if from_file:
        path = folder / 'weights.pth'
        torch.save(file_of(framework, cfg, stock.state_dict()), path)
        point_at(cfg, path)
        stock = build(framework, cfg)
        stock.init_weights()
    stock.train(False)
    x = image_of(cfg)
    expected = flat(stock(x))
    for key in (None, keys_of(number, stock)):
        ours = build(framework, {**cfg, 'type': f'mmmanikey.{OURS[kind]}', 'key': key})
        ours.init_weights()
        if not from_file:  # as load_from of the whole model does
            ours.load_state_dict(stock.state_dict(), strict=False)
        elif len(getattr(ours, 'stages', [])) > 4:  # no file has the fifth stage
            for part in FIFTH_STAGE:
                weights = stock.get_submodule(part).state_dict()
                ours.get_submodule(part).load_state_dict(weights, strict=False)
        actual = flat(ours.eval()(x))
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected):
            assert_same(a, e, STOCK_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize('kind', OURS)
@pytest.mark.parametrize('framework', FRAMEWORKS)
def test_the_same_network(framework, kind, tmp_path, plain_start):
    if (framework, kind) == ('mmdet', 'VisionTransformer'):
        assert not stock_configs.found(framework, kind)
        return
    failed, count = {}, 0
    groups = stock_configs.networks(framework, kind)
    for number, configs in enumerate(groups):
        gc.collect()  # networks of 200 M parameters are in cycles
        try:
            check(framework, kind, number, *configs[0], tmp_path)
        except Exception as error:
            failed[configs[0][0]] = repr(error)  # its frames would keep the network
        else:
            count += len(configs)
    print(f'\n{framework}: {count} configs with a {kind}, {len(groups)} networks')
    assert not failed


def all_with(kind):
    """(framework, config, keys that lead to the part) of every part of this type."""
    return [
        (framework, *place)
        for framework in FRAMEWORKS
        for place in stock_configs.found(framework, kind)
    ]


@pytest.mark.slow
@pytest.mark.parametrize('kind', OURS)
def test_the_readme_has_the_count(kind):
    count = len(all_with(kind))
    print(f'\n{count} configs with a {kind}')
    assert f'{count} configs with a `{kind}`' in ' '.join(README.read_text().split())


@pytest.mark.slow
@pytest.mark.parametrize('kind', NOT_TAKEN)
def test_what_is_not_taken_over(kind):
    """Each is another network: ours is not built from it, or its weights do not fit."""
    places = [place for place in all_with(kind) if place[2]]  # not the whole model
    print(f'\nnot taken over: {len(places)} configs with a {kind}: {NOT_TAKEN[kind]}')
    framework, name, where = places[0]
    cfg = backbone_of(framework, name, where)
    alone = {n: v for n, v in cfg.items() if n not in ('init_cfg', 'pretrained')}
    weights = build(framework, alone).state_dict()
    ours = OURS['SwinTransformer' if 'Swin' in kind else 'VisionTransformer']
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        build(framework, {**alone, 'type': f'mmmanikey.{ours}'}).load_state_dict(
            weights
        )
