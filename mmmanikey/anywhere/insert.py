"""Put keys into the attentions of a model, and take them out. (Not from the paper.)"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize

from ..arguments import is_list, one_of, positive_pair, switch, typed_config
from ..attention import keyed
from ..grids import Grid
from ..keys import ManifoldKey, build_key
from ..registry import KEYS
from .probe import Site, find_sites
from .twin import Twin

Where = str | Sequence[str] | Callable[[str], bool] | None


class Insertion(list):
    """What went in, a dict for each key; it prints as a table."""

    def __str__(self) -> str:
        rows = [self[0].keys(), *(map(str, row.values()) for row in self)]
        rows = [list(row) for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows)]
        return '\n'.join(' '.join(map(str.ljust, row, widths)).rstrip() for row in rows)


def insert_keys(
    model: nn.Module,
    key: Mapping,
    where: Where = None,
    example: object = None,
    verify: bool = True,
    window: int | tuple[int, int] | None = None,
    read: str = 'refuse',
) -> Insertion:
    """Add a residual key to the attentions of a model, in place.

    Until keys are trained the model computes what it did. Its weights keep their names,
    its state dict gains ``….key.*``. Keys are found and tried in a copy of the model.

    Args:
        model (nn.Module): A model with attentions, on one device.
        key (Mapping): Config, ``dict(type='VanillaK', num_charts=8, residual=True)``.
        where (str | Sequence[str] | Callable, optional): Which attentions: patterns of
            module names (``fnmatch``), each of which has to choose some, or a function
            of the name. Defaults to ``None``, all.
        example (object, optional): Input of a forward pass: a tensor, the shape of
            images (B, C, H, W), a tuple of arguments or a dict of them. Defaults to
            ``None``, an image of the model's own size, else of 224 x 224.
        verify (bool): Whether to refuse keys that are not called, change the output or
            get no gradient. Defaults to True.
        window (int | tuple[int, int], optional): Height and width of the grid that the
            tokens of a sequence end in, for keys over tokens. Defaults to ``None``, the
            attention's own window.
        read (str): Where a weight is read and its layer not called: 'refuse', or
            'intercept' what is computed with it. Defaults to ``'refuse'``.

    Returns:
        Insertion: A dict for each key: the layer whose output it is added to, channels
        of its input and of the key, heads, window, channels of the layer that are the
        key, parameters added. It prints as a table.

    Raises:
        ValueError: If an attention cannot take the key, there is none, an argument is
            wrong or the trial fails. The model is then as it was.
        TypeError: If an argument is of another kind.
    """
    cfg = dict(residual=True) | dict(typed_config('key', key))
    if cfg['residual'] is not True:
        raise ValueError('insert_keys adds to the key that is there: set residual=True')
    one_of('refuse', 'intercept')('read', read)
    switch('verify', verify)
    window = None if window is None else positive_pair('window', window)
    patterns = is_list(where) and all(isinstance(each, str) for each in where)
    if not (where is None or callable(where) or isinstance(where, str) or patterns):
        raise TypeError(
            f'where must be patterns of names or a function of a name, got {where!r}'
        )
    refuse_model(model)
    twin = Twin(model, example)
    found = find_sites(twin.model, twin)
    if not found:
        raise ValueError(
            f'{type(model).__name__} has no softmax of a product of query and key'
        )
    names = [site.attention for site in found]
    for each in (patterns and where) or [where]:
        if not any(is_chosen(each, name) for name in names):
            raise ValueError(
                f'where={each!r} chooses none of the attentions {", ".join(names)}'
            )
    sites = [site for site in found if is_chosen(where, site.attention)]
    refuse_sites(model, sites, read)
    plans = [plan(model, site, cfg, window) for site in sites]
    if verify:
        with torch.no_grad():
            before = twin()
        twin.check({p[0].layer: put(twin.model, *p) for p in plans}, before)
    for each in plans:
        put(model, *each)
    return Insertion(row(*each) for each in plans)


def is_chosen(where: Where, name: str) -> bool:
    """Whether an attention of this name is meant."""
    if where is None or callable(where):
        return where is None or bool(where(name))
    return any(fnmatch(name, p) for p in ([where] if isinstance(where, str) else where))


def refuse_model(model: nn.Module) -> None:
    """Raise an error if no key can go into this model at all."""
    if not isinstance(model, nn.Module):
        raise TypeError(f'keys go into a torch.nn.Module, got {type(model).__name__}')
    devices = sorted({str(x.device) for x in [*model.parameters(), *model.buffers()]})
    for part in model.modules():
        if isinstance(part, DistributedDataParallel) or hasattr(part, '_orig_mod'):
            raise ValueError(
                'keys go into a model before it is compiled or distributed'
            )
        if isinstance(part, LazyModuleMixin) and part.has_uninitialized_params():
            raise ValueError('keys go into a model that has run: some layers are lazy')
    if len(devices) != 1 or devices == ['meta']:
        raise ValueError(
            'keys go into a model that is on one device and has memory there, got one '
            f'on {" and ".join(devices) or "none"}'
        )


def refuse_sites(model: nn.Module, sites: Sequence[Site], read: str) -> None:
    """Raise ValueError if one of the sites cannot take a key."""
    problems = {}
    for site in sites:
        layer, problem = model.get_submodule(site.layer), site.problem
        if isinstance(layer, keyed.KeyHolder):
            problem = 'has a key already: remove_keys(model) takes it out'
        elif not problem and hasattr(layer, 'key'):
            problem = f'makes its key by a layer {site.path} that has a key of its own'
        elif not problem and not site.called and read == 'refuse':
            switched = hasattr(model.get_submodule(site.attention), 'qkv_bias_separate')
            way = 'set its qkv_bias_separate=True, or take ' if switched else 'take '
            problem = (
                f'reads the weight of its layer {site.path} without calling it: '
                if site.path
                else 'makes its key by a weight of its own, without a layer: '
            )
            problem += f"{way}read='intercept'"
        if problem:
            problems.setdefault(problem, []).append(site.attention or 'the model')
    for problem, (name, *more) in problems.items():
        name += f' (as {len(more)} more)' if more else ''
        raise ValueError(f'{name} {problem}; where= can leave it out')


def plan(
    model: nn.Module, site: Site, cfg: dict, window: Grid | None
) -> tuple[Site, ManifoldKey, Grid | None, int]:
    """The key for a site; if it is over tokens the grid, and how many precede it."""
    cls = KEYS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
    grid, extra, (*_, tokens, in_dims) = None, 0, site.in_shape
    if getattr(cls, 'needs_window', False):
        own = getattr(model.get_submodule(site.attention), 'window_size', None)
        own = (own, own) if isinstance(own, int) else tuple(own or ())
        if window is not None:
            is_grid, grid = site.in_shape[-3:-1] == window, window
            extra = 0 if is_grid else tokens - math.prod(window)
        elif len(own) == 2 and len(site.in_shape) == 3 and tokens == math.prod(own):
            grid = own
        # some class tokens and registers; as many as a row are of a larger grid
        if grid is None or not 0 <= extra < grid[1]:
            size = window or own or 'that it names'
            raise ValueError(
                f'{cfg["type"]} mixes the tokens of a window, and {site.attention} has '
                f'tokens {site.in_shape} that are of no window {size}: '
                'declare the grid that each sequence ends in, window=(height, width)'
            )
    dims = in_dims, len(site.rows)
    if in_dims != len(site.rows):
        cfg = dict(dict(out_dims=len(site.rows)), **cfg)
    key = build_key(cfg, in_dims, grid)
    if (key.embed_dims, key.out_dims) != dims:
        raise ValueError(
            f'the key maps {key.embed_dims} channels to {key.out_dims}, and that of '
            f'{site.attention} {dims[0]} to {dims[1]}; leave embed_dims and out_dims '
            'out of its config'
        )
    return site, key, grid, extra


def put(
    model: nn.Module, site: Site, key: ManifoldKey, grid: Grid | None, extra: int
) -> ManifoldKey:
    """Put a copy of the key in: change the class of its layer, and of a reader's."""
    layer, mixin = model.get_submodule(site.layer), keyed.KeyedLayer
    if site.layer == site.attention:
        mixin = keyed.KeyedAttention
    elif not site.called:
        mixin, reader = keyed.KeyHolder, model.get_submodule(site.attention)
        reader.__class__ = keyed.keyed_class(type(reader), keyed.KeyReader)
        reader.keyed_layer = site.path
    weight = next(layer.parameters())
    key = copy.deepcopy(key).to(weight.device, weight.dtype).train(layer.training)
    layer.__class__ = keyed.keyed_class(type(layer), mixin)
    layer.put_key(key, site.rows.to(weight.device), grid, extra, site.weight)
    return key


def row(site: Site, key: ManifoldKey, grid: Grid | None, extra: int) -> dict:
    """A row of the table."""
    rows, many = site.rows.tolist(), len(site.rows)
    some = f', {many} of these' if rows[-1] - rows[0] >= many else ''
    return dict(
        module=site.layer,
        channels=f'{site.in_shape[-1]} to {many}',
        heads=site.heads,
        window='x'.join(map(str, grid or '-')),
        layout=f'{rows[0]}:{rows[-1] + 1} of {site.out_dims}{some}',
        parameters=sum(p.numel() for p in key.parameters()),
    )


def remove_keys(model: nn.Module) -> None:
    """Take all inserted keys out: classes and state dict are the stock model's again.

    Args:
        model (nn.Module): A model with keys of ``insert_keys``. Changed in place.

    Raises:
        ValueError: If it has none, or weights of what has them were parametrised since.
    """
    if not keyed.keyed_layers(model):
        raise ValueError(f'{type(model).__name__} has no inserted keys to remove')
    for name, module in model.named_modules():
        if isinstance(module, keyed.Keyed) and parametrize.is_parametrized(module):
            raise ValueError(
                f'the weights of {name} were parametrised after its key came: call '
                'torch.nn.utils.parametrize.remove_parametrizations first'
            )
    for module in [m for m in model.modules() if isinstance(m, keyed.Keyed)]:
        if isinstance(module, keyed.KeyHolder):
            module.take_key()
        vars(module).pop('keyed_layer', None)
        module.__class__ = module.stock
