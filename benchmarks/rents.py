"""Rents: what each fast form saves in a whole network, found by switching it off.

    python benchmarks/rents.py

A form that saves less than 3 % of the time of a step or of a forward pass, and less
than 5 % of the saved bytes, in its best case, does not pay for its code.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import measure
import torch
from networks import LINEAR, swin, vit
from report import Row, Setting, finish, make_parser, positive, start
from torch import nn

from mmmanikey.backbones.patches import PatchUnfold
from mmmanikey.forms import choice, linear

ALL = 'all forms'


@contextmanager
def set_to(owner: object, name: str, value: object) -> Iterator[None]:
    """Give an attribute another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def unregistered(name: str) -> Iterator[None]:
    """Leave out the registered form of that name for a while."""
    kept = {
        cls: [form for form in forms if form.name != name]
        for cls, forms in choice.FORMS.items()
    }
    with set_to(choice, 'FORMS', kept):
        yield


#: What a variant switches off. Where the next best form takes its place, a second
#: variant switches that off as well and is compared with the first.
SWITCHES = {
    'tokens in pieces': (partial(unregistered, 'tokens in pieces'),),
    'windows in pieces': (partial(unregistered, 'windows in pieces'),),
    'oneDNN': (partial(set_to, linear, 'HAS_ONEDNN', False),),
    'projections by oneDNN': (partial(unregistered, 'projections by oneDNN'),),
    'patches by a permutation': (
        partial(set_to, PatchUnfold, 'forward', nn.Unfold.forward),
    ),
    'mixing in pieces': (partial(unregistered, 'mixing in pieces'),),
    'chart by chart': (
        partial(unregistered, 'mixing in pieces'),
        partial(unregistered, 'chart by chart'),
    ),
    'charts in pieces': (partial(unregistered, 'charts in pieces'),),
    'dense charts': (
        partial(unregistered, 'charts in pieces'),
        partial(unregistered, 'dense charts'),
    ),
    'whole block': (partial(unregistered, 'whole block'),),
    'fused windows, nor whole block': (
        partial(unregistered, 'whole block'),
        partial(unregistered, 'fused windows'),
    ),
    'charts at once': (partial(unregistered, 'charts at once'),),
    'dense charts, nor at once': (
        partial(unregistered, 'charts at once'),
        partial(unregistered, 'dense charts'),
    ),
    'Triton': (partial(unregistered, 'Triton'),),
    'mixing in pieces, nor Triton': (
        partial(unregistered, 'Triton'),
        partial(unregistered, 'mixing in pieces'),
    ),
}
AGAINST = {
    'chart by chart': 'mixing in pieces',
    'dense charts': 'charts in pieces',
    'dense charts, nor at once': 'charts at once',
    'mixing in pieces, nor Triton': 'Triton',
    'fused windows, nor whole block': 'whole block',
}
IN_SWIN = (
    *('tokens in pieces', 'windows in pieces'),
    *('oneDNN', 'patches by a permutation'),
)
IN_SPATIAL = ('mixing in pieces', 'chart by chart')
IN_VIT = ('tokens in pieces', 'oneDNN', 'projections by oneDNN')
IN_CHANNELS = ('charts in pieces', 'dense charts')
IN_SWIN_ON_CUDA = (
    *('whole block', 'fused windows, nor whole block'),
    'patches by a permutation',
)
IN_SPATIAL_ON_CUDA = ('Triton', 'mixing in pieces, nor Triton')
IN_VIT_ON_CUDA = ('tokens in pieces',)
IN_CHANNELS_ON_CUDA = ('charts at once', 'dense charts, nor at once')


def rents(
    case: str,
    model: nn.Module,
    shape: tuple[int, ...],
    names: tuple[str, ...],
    setting: Setting,
) -> list[Row]:
    """Measure a network with each of some forms switched off.

    Args:
        case (str): Name for the table; the shape is added.
        model (nn.Module): The backbone.
        shape (tuple[int, ...]): Of the images, (B, 3, H, W).
        names (tuple[str, ...]): Of :data:`SWITCHES`.
        setting (Setting): Where and how.

    Returns:
        list[Row]: 'forward', 'step' and 'saved' of each variant.
    """
    case = f'{"quick " * setting.quick}{case} {"x".join(map(str, shape))}'
    images = torch.randn(shape, device=setting.device)
    model = model.to(setting.device)
    variants = {ALL: (), **{f'no {name}': SWITCHES[name] for name in names}}

    def forward() -> torch.Tensor:
        with setting.autocast():
            return sum(out.float().mean() for out in model(images))

    def switched(call: Callable, switches: tuple[Callable, ...]) -> Callable:
        def run() -> object:
            with ExitStack() as stack:
                for switch in switches:
                    stack.enter_context(switch())
                return call()

        return run

    def each(call: Callable) -> dict[str, Callable]:
        return {name: switched(call, which) for name, which in variants.items()}

    model.eval()
    times = measure.compare(each(torch.no_grad()(forward)), setting.rounds)
    values = {'forward': times}
    model.train()
    times = measure.compare(each(measure.step(forward, model)), setting.rounds)
    values['step'] = times
    counts = each(lambda: measure.saved_bytes(model, forward))
    values['saved'] = {name: [count()] for name, count in counts.items()}
    rows = []
    for what, results in values.items():
        for name in variants:
            row = Row(case, name, what, statistics.median(results[name]))
            if name != ALL:
                against = AGAINST.get(name.removeprefix('no '))
                row.against = f'no {against}' if against in names else ALL
                others = results[row.against]
                ratios = [one / other for one, other in zip(results[name], others)]
                row.ratio = statistics.median(ratios)
                if len(ratios) > 1:
                    quartiles = statistics.quantiles(ratios, method='inclusive')
                    row.quartiles = quartiles[::2]
            rows.append(row)
    return rows


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument('--swin-keys', nargs='*', default=['SpatialK', LINEAR])
    parser.add_argument(
        '--vit-keys', nargs='*', default=['VanillaK', LINEAR, 'KUA', 'SimpleK']
    )
    parser.add_argument(
        '--vit-layers', type=positive, default=3, help='of ViT-B, which has 12'
    )
    args, setting = start(parser)
    on_cuda = setting.device.type == 'cuda'
    if setting.quick:
        shapes = (8, 3, 32, 32), (1, 3, 64, 64)
    elif on_cuda:
        shapes = (64, 3, 224, 224), (2, 3, 800, 1344)
    else:
        shapes = (8, 3, 224, 224), (1, 3, 640, 640)
    in_swin, in_spatial, in_vit, in_channels = (
        (IN_SWIN_ON_CUDA, IN_SPATIAL_ON_CUDA, IN_VIT_ON_CUDA, IN_CHANNELS_ON_CUDA)
        if on_cuda
        else (IN_SWIN, IN_SPATIAL, IN_VIT, IN_CHANNELS)
    )
    rows = []
    for shape in shapes:
        for name in args.swin_keys:
            case, model = f'Swin-T {name}', swin(name, quick=setting.quick)
            names = in_swin + in_spatial * (name == 'SpatialK')
            rows += rents(case, model, shape, names, setting)
        for name in args.vit_keys:
            case = f'ViT-B, {args.vit_layers} layers, {name}'
            model = vit(name, args.vit_layers, setting.quick)
            names = in_vit + in_channels * (name != LINEAR)
            rows += rents(case, model, shape, names, setting)
    finish('rents', rows, setting)


if __name__ == '__main__':
    main()
