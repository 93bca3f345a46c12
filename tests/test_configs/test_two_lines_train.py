"""Two lines over a config of every kind of model: one training step of the whole.

Kinds are those of the model and its heads. With fewer layers, on mmdet's demo inputs.
"""

import copy
import gc

import pytest
import stock_configs
import torch
import zoo
from mmengine.model import base_module, revert_sync_batchnorm, weight_init
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

KEY = dict(type='SpatialK', num_charts=2, residual=True)
#: Kinds that are not trained here, with the reason.
NOT_TRAINED = dict(
    FCOS='its FPN is asked for an argument that this mmdet does not have',
    GLIP='its language model comes from a hub',
    GroundingDINO='its language model comes from a hub',
    MultimodalEncoderDecoder='its text encoder comes from a hub',
    **dict.fromkeys(
        ('BlipGrounding', 'BlipCaption', 'BlipNLVR', 'BlipVQA', 'BlipRetrieval')
        + ('ChineseCLIP', 'CLIPZeroShot', 'Flamingo', 'Llava', 'Otter'),
        'its text is read by a tokenizer from a hub',
    ),
)


def types(node):
    """The types of a model's parts, but for its backbone."""
    if isinstance(node, dict):
        own = [node['type']] if isinstance(node.get('type'), str) else []
        inner = (v for k, v in node.items() if k != 'backbone')
        return [*own, *(kind for value in inner for kind in types(value))]
    if isinstance(node, (list, tuple)):
        return [kind for value in node for kind in types(value)]
    return []


def kinds():
    """One config of each kind of model that has a backbone of ours."""
    found = {}
    for framework in stock_configs.FRAMEWORKS:
        for stock in stock_configs.OURS:
            for name, where in stock_configs.found(framework, stock):
                model = stock_configs.read(framework, name).model
                parts = {t for t in types(model) if t.endswith(('Head', 'Neck', 'FPN'))}
                kind = (framework, stock, model.type, *sorted(parts))
                found.setdefault(kind, (framework, stock, name, where))
    return found


def small(framework, stock, name, where):
    """The config after the two lines, with fewer layers and without weights."""
    cfg = copy.deepcopy(stock_configs.read(framework, name))
    model = cfg.model
    backbone = stock_configs.shallow(framework, model[where[0]], most=4)
    backbone.update(type=f'mmmanikey.{stock_configs.OURS[stock]}', key=KEY)
    backbone.drop_path_rate = 0.0  # else a block of two images may be left out
    backbone.frozen_stages = -1  # linear probing trains no backbone
    for part in (backbone, model):
        part.pop('init_cfg', None)
        part.pop('pretrained', None)
    zoo.fewer_layers(model)
    if 'data_preprocessor' in cfg:  # as mmengine's Runner does
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    preprocessor = model.get('data_preprocessor', {})
    preprocessor.pop('batch_augments', None)  # 1024 px is for GPUs
    if 'pad_size_divisor' in preprocessor:
        preprocessor.pad_size_divisor = 32
    if 'size' in preprocessor:
        preprocessor.size = (128, 128)
    return cfg


def batch_of(framework, model, masks):
    """Something to learn, of the size that the preprocessor takes."""
    if framework == 'mmdet':
        from mmdet.testing import demo_mm_inputs, demo_track_inputs

        if 'Video' in type(model).__name__:
            items = dict(num_items=[3], num_classes=40, with_mask=True)
            return demo_track_inputs(1, 2, image_shapes=[(3, 96, 128)], **items)
        options = dict(num_items=[3, 2], num_classes=80, with_semantic=masks)
        return demo_mm_inputs(2, [(3, 128, 128)] * 2, with_mask=masks, **options)
    if framework == 'mmpretrain':
        from mmpretrain.structures import DataSample

        inputs = [torch.randint(0, 255, (3, 224, 224))] * 2
        return dict(
            inputs=inputs, data_samples=[DataSample().set_gt_label(i) for i in range(2)]
        )
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.randint(0, 19, (1, 128, 128))
    meta = dict(img_shape=(128, 128), ori_shape=(128, 128))
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta)
    inputs = [torch.randint(0, 255, (3, 128, 128), dtype=torch.uint8)] * 2
    return dict(inputs=inputs, data_samples=[sample, copy.deepcopy(sample)])


def step(framework, stock, name, where):
    """One step of the config's optimiser, which moves the key and nothing decays it."""
    cfg = small(framework, stock, name, where)
    init_default_scope(framework)
    model = revert_sync_batchnorm(stock_configs.build(framework, cfg.model)).train()
    model.init_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith('head.') and parameter.dim() > 1:  # zero in some
                parameter.normal_(std=0.02)
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    wrapper.type = 'OptimWrapper'  # AMP needs a GPU
    wrapper = build_optim_wrapper(model, wrapper)
    keys = {n: p for n, p in model.named_parameters() if n.endswith('.key.out.weight')}
    assert keys
    assert not any(parameter.any() for parameter in keys.values())
    masks = any('Mask' in kind for kind in types(cfg.model))
    losses = model.train_step(batch_of(framework, model, masks), wrapper)
    assert all(torch.isfinite(loss).all() for loss in losses.values())
    assert all(parameter.any() for parameter in keys.values())
    scales = {id(p) for n, p in model.named_parameters() if n.endswith('.key.scale')}
    groups = wrapper.optimizer.param_groups
    decays = {id(p): group['weight_decay'] for group in groups for p in group['params']}
    assert {decays[scale] for scale in scales} == {0.0}


@pytest.mark.slow
def test_one_step_of_every_kind(monkeypatch):
    for module in (weight_init, base_module):
        monkeypatch.setattr(module, 'update_init_info', stock_configs.without_means)
    failed, trained = {}, 0
    for (_, _, model, *_), place in kinds().items():
        if model in NOT_TRAINED or 'headless' in place[2]:
            continue
        gc.collect()  # networks of 200 M parameters are in cycles
        try:
            step(*place)
            trained += 1
        except Exception as error:
            failed[place[2]] = repr(error)  # its frames would keep the network
    print(f'\n{trained} kinds of models trained')
    assert not failed
