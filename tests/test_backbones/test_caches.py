"""What is kept between calls is bounded, and never wrong.

Each case is compared with a fresh network whose caches are empty.
"""

import copy
import functools
import gc
import importlib
import pickle
import pkgutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from oracles import STRATEGIES, TOLERANCE, assert_same, randomize

import mmmanikey
from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT
from mmmanikey.forms import crossovers
from mmmanikey.forms.window_grid import window_grid

KEYS = [None, *STRATEGIES]
#: Side that is no multiple of window or patch, so that windows are padded and shifted.
SIZE = (37, 50)


@pytest.fixture(autouse=True)
def all_sizes():
    """Forms, whose caches these are, run for small images as well."""
    window_grid.cache_clear()
    with crossovers.ignored():
        yield


def make(family, key):
    cfg = key and dict(type=key, num_charts=2)
    if key == 'SpatialK' and family == 'vit':
        cfg['window_size'] = 4
    options = {} if family == 'swin' else dict(window_size=4, use_rel_pos=True)
    return getattr(tiny, family)(cfg, **options)


def caches():
    """Every function of the package with an ``lru_cache``, by its name."""
    found = {}
    for info in pkgutil.walk_packages(mmmanikey.__path__, 'mmmanikey.'):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if hasattr(value, 'cache_info') and value.__module__ == info.name:
                found[f'{info.name}.{name}'] = value
    return found


def fresh_output(family, key, weights, images):
    """Output of a new network with empty caches."""
    for cache in caches().values():
        cache.cache_clear()
    model = make(family, key).to(images.dtype)
    model.load_state_dict(weights)
    with torch.no_grad():
        return model.train(False)(images)


def assert_fresh(model, family, key, images):
    """``model`` gives what a fresh network with its weights gives."""
    with torch.no_grad():
        got = model(images)
    weights = copy.deepcopy(model.state_dict())
    for ours, want in zip(got, fresh_output(family, key, weights, images), strict=True):
        tolerance = TOLERANCE.get(images.dtype, 2e-2)
        assert_same(ours.float(), want.float(), tolerance)


def changes():
    """What is done to a network between two calls, each returning the network."""

    def load(model):
        weights = {n: p + 0.1 for n, p in model.state_dict().items() if is_float(p)}
        model.load_state_dict(weights, strict=False)
        return model

    def step(model):
        model.train()
        sum(out.sin().sum() for out in model(torch.randn(1, 3, *SIZE))).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        return model.train(False)

    def write(model):
        for parameter in model.parameters():
            parameter.data.mul_(1.1)
        return model

    def replace(model):
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(parameter.detach() * 0.9))
        return model

    return dict(
        load_state_dict=load,
        optimizer_step=step,
        weights_written_in_place=write,
        weights_replaced=replace,
        random_weights=randomize,
        to_double=lambda model: model.to(torch.float64),
        half=lambda model: model.half(),
        bfloat16_and_back=lambda model: model.bfloat16().float(),
        train_and_eval=lambda model: model.train().train(False),
        deepcopy=lambda model: randomize(copy.deepcopy(model)),
        pickling=lambda model: randomize(pickle.loads(pickle.dumps(model))),
        inference_mode=torch.inference_mode()(run),
    )


def run(model):
    model(torch.randn(1, 3, *SIZE))
    return model


def is_float(tensor):
    return tensor.is_floating_point()


@pytest.mark.parametrize('change', changes())
@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_nothing_old_is_used_after(family, key, change):
    model = make(family, key).train(False)
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        model(images)  # fills what may be kept
    assert bool(window_grid.cache_info().currsize) == (family == 'swin')
    changed = changes()[change](model)
    dtype = next(changed.parameters()).dtype
    assert_fresh(changed, family, key, images.to(dtype))
    if changed is not model:  # and a copy's weights are its own
        assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
        assert_fresh(model, family, key, images)


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_in_other_orders_of_sizes_and_batches(family, key):
    model = make(family, key).train(False)
    for batch, height, width in [(2, 37, 50), (1, 37, 50), (2, 50, 37), (2, 37, 50)]:
        assert_fresh(model, family, key, torch.randn(batch, 3, height, width))


@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_several_threads_at_once(family):
    """The same network, several sizes, caches empty at first."""
    model = make(family, 'SpatialK').train(False)
    sizes = [(9 + 7 * i, 60 - 5 * i) for i in range(6)] * 3
    images = [torch.randn(1 + i % 2, 3, *size) for i, size in enumerate(sizes)]
    with torch.no_grad():
        want = [model(x) for x in images]
    for cache in caches().values():
        cache.cache_clear()

    @torch.no_grad()
    def infer(x):
        return model(x)

    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(infer, images))
    for ours, theirs in zip(got, want, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_hundreds_of_sizes_leave_little_behind(family):
    """Images of 1 x 1 to 20 x 20 patches; the last map is still right."""
    model = shallow(family).train(False)
    sizes = [(4 * h, 4 * w) for h in range(1, 21) for w in range(1, 21)]

    def held():
        gc.collect()
        return sum(issubclass(type(it), torch.Tensor) for it in gc.get_objects())

    with torch.no_grad():
        for size in sizes[:200]:
            model(torch.zeros(1, 3, *size))
        before = held()
        for size in sizes[200:]:
            model(torch.zeros(1, 3, *size))
        after = held()
    assert after <= before
    assert all(
        cache.cache_info().currsize <= cache.cache_info().maxsize
        for cache in caches().values()
    )
    x = torch.randn(1, 3, *sizes[-1])
    with torch.no_grad():
        want = model(x)[0]
        window_grid.cache_clear()
        assert torch.equal(model(x)[0], want)


def shallow(family):
    """As few layers as show every kind of window."""
    key = dict(type='SpatialK', num_charts=2)
    if family == 'swin':
        arch = dict(embed_dims=8, depths=[2], num_heads=[2])
        settings = dict(out_indices=(0,), pad_small_map=True)
        return ManifoldKeySwin(arch, key=key, window_size=4, **settings)
    arch = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=16)
    settings = dict(img_size=32, patch_size=4, with_cls_token=False, use_rel_pos=True)
    key['window_size'] = 4
    return ManifoldKeyViT(arch, key=key, window_size=4, out_type='featmap', **settings)


def test_every_cache_has_a_bound():
    found = caches()
    assert found['mmmanikey.forms.window_grid.window_grid'] is window_grid
    assert all(cache.cache_info().maxsize for cache in found.values())


def test_the_search_finds_an_unbounded_cache(monkeypatch):
    @functools.cache
    def kept():
        """Of a module of ours."""

    monkeypatch.setattr(kept, '__module__', 'mmmanikey.registry')
    monkeypatch.setattr('mmmanikey.registry.kept', kept, raising=False)
    assert caches()['mmmanikey.registry.kept'].cache_info().maxsize is None
