"""The protocol, the arms and the configs say the same; pairs start alike."""

import re

import pytest
import torch

from studies import arms, jobs, pairing
from studies.arms import BACKBONES, KEYS, LINEAR, QUESTIONS

BEST = dict(swin='SpatialK', vit='VanillaK')
SINGLE = [
    arm
    for number, question in QUESTIONS.items()
    if number != 6
    for arm in question.arms
]


def flat(node, prefix=''):
    """All leaves of a config by their path."""
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(v, dict) for v in node):
        items = enumerate(node)
    else:
        return {prefix: node}
    found = {}
    for name, value in items:
        found |= flat(value, f'{prefix}.{name}' if prefix else str(name))
    return found


def test_the_protocols_table_is_the_arms():
    text = (arms.ROOT / 'README.md').read_text()
    rows = re.findall(r'^\| (\d) \| (.+?) \| (.+?) \| (.+?) \| (\d+) \|$', text, re.M)
    told = {
        int(number): (names.split(', '), against, backbones.split(', '), int(seeds))
        for number, names, against, backbones, seeds in rows
    }
    assert told == {
        number: ([*q.arms], q.against, [*q.backbones], q.seeds)
        for number, q in QUESTIONS.items()
    }
    assert f'Version {arms.PROTOCOL},' in text


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('arm', dict.fromkeys(SINGLE))
def test_a_config_differs_by_its_arm_alone(arm, backbone):
    linear = flat(arms.config_of(LINEAR, backbone)._cfg_dict.to_dict())
    other = flat(arms.config_of(arm, backbone, BEST[backbone])._cfg_dict.to_dict())
    differing = {
        name
        for name in linear.keys() | other.keys()
        if linear.get(name) != other.get(name)
    }
    changed = arms.changes_of(arm, backbone, BEST[backbone])
    assert bool(differing) == bool(changed)
    assert all(name.startswith(tuple(changed)) for name in differing)
    assert all(any(n.startswith(c) for n in differing) for c in changed)


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('of', ['params', 'macs'])
@pytest.mark.parametrize('best', ['SpatialK', 'VanillaK'])
def test_wide_controls_cost_what_the_key_costs(backbone, of, best):
    wide = arms.cost_of(f'wide-{of}', backbone, best)[of]
    assert wide == pytest.approx(arms.cost_of('best', backbone, best)[of], rel=0.01)


@pytest.mark.parametrize('backbone', BACKBONES)
def test_one_wide_chart_costs_what_eight_cost(backbone):
    one, eight = (arms.cost_of(arm, backbone) for arm in ('wide-chart', 'VanillaK'))
    assert one['macs'] == pytest.approx(eight['macs'], rel=0.01)
    assert one['params'] == pytest.approx(eight['params'], rel=0.01)


@pytest.mark.parametrize('arm', ['best', 'wide-macs', 'best-1000'])
def test_the_best_key_must_be_known(arm):
    with pytest.raises(ValueError, match=f'{arm.removesuffix("-1000")} needs'):
        arms.config_of(arm, 'swin')


def test_unknown_arm():
    with pytest.raises(ValueError, match="unknown arm 'worst'"):
        arms.config_of('worst', 'swin', 'KUA')


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('arm', [*KEYS, 'wide-params', 'one-more-block'])
def test_pairs_start_alike(arm, backbone):
    linear = pairing.built(arms.config_of(LINEAR, backbone), seed=3)
    model = pairing.built(arms.config_of(arm, backbone, BEST[backbone]), seed=4)
    common = pairing.start_alike(model, linear)
    own, given = model.state_dict(), linear.state_dict()
    differing = {name for name in own if name not in common}
    if arm in KEYS:
        assert all('.key.' in name for name in differing)
        query, _, value = given[first(given, '.qkv.weight')].chunk(3)
        name = first(own, '.qv.weight')
        assert torch.equal(own[name], torch.cat([query, value]))
    elif arm == 'wide-params':
        assert all('.ffn.' in name for name in differing)
    else:
        assert not differing & given.keys()
    shared = [name for name in common if name in given]
    assert all(torch.equal(own[name], given[name]) for name in shared)
    assert len(shared) > 20


def first(names, part):
    return next(name for name in names if part in name)


def test_every_run_once_and_pairs_together():
    found = jobs.all_jobs()
    assert len(found) == len(set(found))
    assert {job.seed for job in found[:10]} == {0}
    assert jobs.Job(LINEAR, 'swin', 0) in found
