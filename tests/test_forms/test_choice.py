"""Which form is found, for whom, and what is said about it."""

import os
import subprocess
import sys

import pytest
import tiny
import torch
from mmengine.logging import MMLogger
from torch import nn

from mmmanikey import forms
from mmmanikey.forms import __main__ as tool
from mmmanikey.forms import choice
from mmmanikey.keys import SimpleK, VanillaK


class Double(nn.Module):
    """Plain code: twice the input."""

    def forward(self, x):
        form = forms.find(self, x)
        return 2 * x if form is None else form(self, x)


@pytest.fixture
def double(monkeypatch):
    monkeypatch.setattr(choice, 'FORMS', {Double: [Refusing(), Adding()]})
    monkeypatch.setattr(choice, 'LOGGED', set())
    return Double()


class Adding(forms.Form):
    """Says that it ran by adding one."""

    name = 'adding'

    def __call__(self, module, x):
        return 2 * x + 1


class Refusing(Adding):
    name = 'refusing'

    def why_not(self, module, x):
        return 'it never does'


def test_the_first_that_applies(double):
    assert double(torch.ones(())) == 3
    with forms.recorded() as decisions:
        double(torch.ones(()))
    (decision,) = decisions
    assert (decision.module, decision.form) == (double, 'adding')
    assert decision.refused == {'refusing': 'it never does'}
    double(torch.ones(()))
    assert len(decisions) == 1


def test_a_subclass_is_not_served(double):
    class Other(Double):
        pass

    assert Other()(torch.ones(())) == 2


def test_a_transparent_form_runs_where_somebody_is_looking(double, monkeypatch):
    def value():
        return torch.func.vmap(double)(torch.ones(1))

    assert value() == 2
    monkeypatch.setattr(Adding, 'transparent', True)
    assert value() == 3


def test_layers_that_were_replaced(double, monkeypatch):
    monkeypatch.setattr(Adding, 'replaces', {'act.inner': nn.GELU})
    monkeypatch.setitem(choice.FORMS, Double, [Adding()])
    double.act = nn.Module()
    assert double(torch.ones(())) == 3  # a layer that is not there
    double.act.inner = nn.GELU()
    assert double(torch.ones(())) == 3
    double.act.inner = nn.ReLU()
    assert double(torch.ones(())) == 2
    with forms.recorded() as decisions:
        double(torch.ones(()))
    assert decisions[0].refused['adding'] == 'act.inner is a ReLU'


def test_records_inside_each_other(double):
    """Lists that are equal are two nevertheless."""
    x = torch.ones(2)
    with forms.recorded() as outer:
        with forms.recorded() as inner:
            forms.find(double, x)
        forms.find(double, x)
    assert (len(outer), len(inner)) == (2, 1)


def test_switched_off_and_on_again(double):
    with forms.use('plain'):
        with forms.recorded() as decisions:
            assert double(torch.ones(())) == 2
        (decision,) = decisions
        assert decision.form == 'plain'
        assert decision.refused['adding'] == 'forms are switched off'
        with forms.use('fast'):
            assert double(torch.ones(())) == 3
        assert double(torch.ones(())) == 2
    with pytest.raises(RuntimeError, match='stop'), forms.use('plain'):
        raise RuntimeError('stop')
    assert double(torch.ones(())) == 3


def test_only_two_choices():
    sentence = "^forms must be 'fast' or 'plain', got 'slow'$"
    with pytest.raises(ValueError, match=sentence), forms.use('slow'):
        pass


@pytest.mark.parametrize('value', ['plain', 'fast', 'slow'])
def test_environment_variable(value):
    code = 'from mmmanikey.forms import choice; print(choice.choice)'
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'MMMANIKEY_FORMS': value},
        capture_output=True,
        text=True,
    )
    if value == 'slow':
        assert "MMMANIKEY_FORMS must be 'fast' or 'plain', got 'slow'" in done.stderr
    else:
        assert done.stdout.split()[-1] == value


def test_each_decision_is_logged_once(double, monkeypatch):
    lines = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'debug', lines.append)
    for _ in range(3):
        double(torch.ones(()))
    assert lines == ['Double: adding; refusing: it never does']
    with forms.use('plain'):
        double(torch.ones(()))
    off = 'forms are switched off'
    assert lines[1:] == [f'Double: plain; refusing: {off}; adding: {off}']
    refused = {'one': 'why', 'other': 'why not'}
    decision = choice.Decision(double, 'plain', refused)
    assert str(decision) == 'Double: plain; one: why; other: why not'


def test_registered_for_classes_in_order(monkeypatch):
    monkeypatch.setattr(choice, 'FORMS', {})
    for form in (Refusing, Adding):
        assert forms.register(VanillaK, SimpleK)(form) is form
    kinds = [[type(form) for form in each] for each in choice.FORMS.values()]
    assert kinds == [[Refusing, Adding]] * 2


def test_the_command_names_every_layer(run_tool):
    config = 'configs/demo/pretrain_swin_nano_spatialk.py'
    # without --train plain code is faster for some of these sizes
    status, out, _ = run_tool(tool, config, '--size', '64', '64', '--train')
    assert status == 0
    rows = [line for line in out.splitlines() if line.startswith('stages.')]
    for text in (
        'SpatialK: mixing in pieces; Triton: the device is cpu',
        'FeedForward: tokens in pieces',
        'ManifoldKeyShiftWindowMSA: windows in pieces',
    ):
        assert sum(text in row for row in rows) == len(rows) // 3


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['nowhere.py'], "config 'nowhere.py' does not exist"),
        (['configs/_base_/fsdp.py'], 'has no model with a backbone'),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, run_tool):
    status, _, told = run_tool(tool, *arguments)
    assert status == 2
    assert sentence in told
    assert 'Traceback' not in told


@pytest.mark.parametrize('key', [None, 'SpatialK', 'VanillaK'])
def test_the_log_does_not_grow_with_the_sizes_of_images(key, monkeypatch):
    monkeypatch.setattr(choice, 'LOGGED', set())
    model = tiny.swin(key and dict(type=key, num_charts=2))
    logged = []
    for size in (32, 40, 48, 56, 64):
        with torch.no_grad():
            model(torch.randn(1, 3, size, 32))
        logged.append(len(choice.LOGGED))
    assert 0 < logged[0] == logged[-1]
