"""The examples of docs/any_backbone.md, run as they stand there on small models."""

import ast
import copy
import re

import pages
import pytest
import timm
import torch
import transformers
from hugging_face import DETR
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmmanikey
from mmmanikey.attention import keyed

PAGE = pages.ROOT / 'docs/any_backbone.md'
SMALL = dict(embed_dim=16, depth=2, num_heads=2)
ARCH = dict(embed_dims=16, depths=[1] * 4, num_heads=[1, 2, 2, 2])
ARCH['extra_norm_every_n_blocks'] = 0


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the one block with these words; what it leaves behind."""
    monkeypatch.chdir(tmp_path)

    def call(words, **given):
        (block,) = (
            block.text for block in pages.blocks(PAGE.name) if words in block.text
        )
        names = dict(given, mmmanikey=mmmanikey, torch=torch)
        exec(compile(block, str(PAGE), 'exec'), names)
        return names

    return call


def test_timm(run, monkeypatch, capsys):
    make = timm.create_model

    def create_model(name, pretrained):
        assert pretrained
        assert name in timm.list_models(pretrained=True)
        return make(name.split('.')[0], img_size=56, **SMALL)

    monkeypatch.setattr(timm, 'create_model', create_model)
    names = run('import timm')
    assert [row['module'] for row in names['table']] == [
        f'blocks.{i}.attn.qkv' for i in range(2)
    ]
    assert 'blocks.1.attn.qkv' in capsys.readouterr().out


def test_keys_over_tokens(run):
    model = timm.create_model('vit_small_patch16_224', **SMALL)
    run('window=14', model=model)
    assert model.blocks[0].attn.qkv.key_place[1:] == ((14, 14), 1)


def test_a_config(run, monkeypatch):
    init_default_scope('mmpretrain')
    named = run('with_keys')
    cfg = Config({n: named[n] for n in ('model', 'optim_wrapper')})
    inner = cfg.model.backbone.backbone
    inner.arch = ARCH
    weights = MODELS.build({**inner, 'init_cfg': None}).state_dict()
    weights = {f'backbone.{n}': x + torch.ones_like(x) for n, x in weights.items()}
    torch.save(dict(state_dict=weights), inner.init_cfg.checkpoint)
    backbone = MODELS.build(cfg.model.backbone)
    backbone.init_weights()
    name = 'stages.0.blocks.0.attn.w_msa.qkv.weight'
    assert torch.equal(backbone.state_dict()[name], weights[f'backbone.{name}'])
    cfg.optim_wrapper.update(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    groups = build_optim_wrapper(backbone, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(p): group['lr'] for group in groups for p in group['params']}
    keys = {*map(id, mmmanikey.key_parameters(backbone))}
    assert {rate for p, rate in rates.items() if p in keys} == {1.0}
    assert {rate for p, rate in rates.items() if p not in keys} == {0.1}


def test_transformers(run, monkeypatch):
    def from_pretrained(name):
        assert name == 'facebook/detr-resnet-50'
        config = transformers.DetrConfig(**copy.deepcopy(dict(DETR, decoder_layers=6)))
        return transformers.DetrForObjectDetection(config)

    cls = transformers.DetrForObjectDetection
    monkeypatch.setattr(cls, 'from_pretrained', from_pretrained)
    names = run('DetrForObjectDetection')
    encoder = [f'model.encoder.layers.{i}.self_attn.k_proj' for i in range(2)]
    assert sorted(keyed.keyed_layers(names['model'])) == encoder
    # the sentence after it
    where = re.search(r"`where=(\[.*?\])` takes the decoder's", PAGE.read_text())[1]
    model = from_pretrained('facebook/detr-resnet-50')
    mmmanikey.insert_keys(model, names['key'], where=ast.literal_eval(where))
    assert len(keyed.keyed_layers(model)) == 2 + 5 * 2


def test_keys_alone(run):
    model = timm.create_model('vit_tiny_patch16_224', **SMALL)
    key = dict(type='VanillaK', num_charts=2, residual=True)
    mmmanikey.insert_keys(model, key)
    for parameter in mmmanikey.key_parameters(model):
        torch.nn.init.normal_(parameter)
    run('keys.pth', model=model)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learning == set(mmmanikey.key_state_dict(model))


def test_no_block_is_left_out():
    """Each of the page's blocks is one of those above."""
    words = ('import timm', 'window=14', 'with_keys', 'DetrFor', 'keys.pth')
    found = [
        [word for word in words if word in b.text] for b in pages.blocks(PAGE.name)
    ]
    assert [word for (word,) in found] == [*words]
