"""Crossovers: the forms of each layer against each other and the plain code, by shape.

    python benchmarks/crossovers.py

Layers of Swin-T's stages, for images from 224 px on, without gradients and in a step.
``mmmanikey/forms/crossovers.py`` has the table that follows.
"""

import statistics
from collections.abc import Callable
from contextlib import nullcontext

import measure
import torch
from mmpretrain.models.utils import ShiftWindowMSA
from networks import KEYS, QUICK_SWIN, SWIN_T
from report import Row, Setting, finish, make_parser, start
from torch import Tensor, nn

from mmmanikey import forms
from mmmanikey.attention import ManifoldKeyShiftWindowMSA
from mmmanikey.backbones.ffn import FeedForward
from mmmanikey.forms import crossovers
from mmmanikey.keys import build_key

WINDOW = 7
IMAGES = ((1, 224, 224), (8, 224, 224), (1, 640, 640))
QUICK_IMAGES = ((1, 32, 32),)
PLAIN = 'plain'


def layers(dims: int, heads: int) -> dict[str, nn.Module]:
    """The layers of a stage that have forms, by their names in the table."""
    stock = ShiftWindowMSA(dims, heads, window_size=WINDOW, pad_small_map=True)
    gelu = dict(type='GELU')
    return {
        'windows': ManifoldKeyShiftWindowMSA.adopt(stock),
        'FFN': FeedForward(dims, 4 * dims, act_cfg=gelu),
        **{key: build_key(dict(type=key), dims, WINDOW) for key in KEYS[1:]},
    }


def candidates(
    layer: nn.Module, inputs: tuple[object, ...], arguments: tuple[object, ...]
) -> dict[str, Callable[[], Tensor]]:
    """What may compute a layer: its forms that serve, and the plain code.

    Args:
        layer (nn.Module): Of :func:`layers`.
        inputs (tuple): What its forms are called with.
        arguments (tuple): What the layer itself is called with.
    """

    def plain() -> Tensor:
        with forms.use(PLAIN):
            return layer(*arguments)

    def run(form: forms.Form) -> Callable[[], Tensor]:
        return lambda: form(layer, *inputs)

    found = forms.reasons(layer, *inputs)
    serving = {form.name: run(form) for form, reason in found if reason is None}
    return serving | {PLAIN: plain}


def contest(
    title: str,
    name: str,
    layer: nn.Module,
    x: Tensor,
    size: tuple[int, int],
    setting: Setting,
) -> list[Row]:
    """Measure what may compute a layer, over the first of them.

    Args:
        title (str): Of the case.
        name (str): Of the layer.
        layer (nn.Module): It.
        x (Tensor): Tokens (B, h * w, C).
        size (tuple[int, int]): Their grid.
        setting (Setting): Where and how.

    Returns:
        list[Row]: 'forward' without gradients and 'step' of each.
    """
    rows = []
    for what in ('forward', 'step'):
        learns = what == 'step'
        x = x.detach().requires_grad_(learns)
        if name == 'windows':
            inputs, arguments = (x, size, 0), (x, size)
        elif name == 'FFN':
            inputs = arguments = (x,)
        else:
            tokens = x.flatten(0, 1)
            whole = len(tokens) // WINDOW**2 * WINDOW**2
            windows = tokens[:whole].view(-1, WINDOW**2, x.shape[2])
            inputs, arguments = (windows, None), (windows,)
        with nullcontext() if learns else torch.no_grad(), crossovers.ignored():
            calls = candidates(layer, inputs, arguments)

        def timed(call: Callable[[], Tensor], learns: bool = learns) -> Callable:
            def run() -> None:
                with setting.autocast():
                    out = call()
                if learns:
                    out.sum().backward()
                    layer.zero_grad(set_to_none=True)

            return run if learns else torch.no_grad()(run)

        seconds = measure.compare(
            {which: timed(call) for which, call in calls.items()}, setting.rounds
        )
        for which, times in seconds.items():
            row = Row(title, f'{name}: {which}', what, statistics.median(times))
            if which != PLAIN:
                ratios = [one / other for one, other in zip(times, seconds[PLAIN])]
                row.against, row.ratio = f'{name}: {PLAIN}', statistics.median(ratios)
            rows.append(row)
    return rows


def main() -> None:
    args, setting = start(make_parser(__doc__.splitlines()[0]))
    arch = QUICK_SWIN if setting.quick else SWIN_T
    rows = []
    for batch, *image in QUICK_IMAGES if setting.quick else IMAGES:
        for stage, heads in enumerate(arch['num_heads']):
            dims = arch['embed_dims'] * 2**stage
            size = tuple(max(WINDOW, side // (4 * 2**stage)) for side in image)
            x = torch.randn(batch, size[0] * size[1], dims, device=setting.device)
            shape = 'x'.join(map(str, x.shape))
            title = f'{batch} x {image[0]}, stage {stage + 1}: {shape}'
            for name, layer in layers(dims, heads).items():
                layer.to(setting.device)
                rows += contest(title, name, layer, x, size, setting)
    finish('crossovers', rows, setting)


if __name__ == '__main__':
    main()
