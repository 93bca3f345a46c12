"""Keys alone: each strategy's form against its plain formula.

    python benchmarks/key.py

At ViT-B's width and tokens, class token included, and at the widths of Swin-T's stages.
"""

from collections.abc import Callable

import measure
import torch
from networks import compared
from report import Row, Setting, finish, make_parser, positive, start
from torch import Tensor

from mmmanikey import forms as forms_of_keys
from mmmanikey.keys import build_key

STRATEGIES = ('VanillaK', 'SimpleK', 'KUA', 'SpatialK')
FAST, REFERENCE = 'fast', 'reference'
SWIN_WINDOW, VIT_WINDOW = 7, 14


def contest(
    case: str,
    name: str,
    x: Tensor,
    window: int,
    hw_shape: tuple[int, int] | None,
    setting: Setting,
    bound: float | None = None,
) -> list[Row]:
    """Measure one key with its form and without.

    Args:
        case (str): Name for the table.
        name (str): Strategy.
        x (Tensor): Tokens, (B, N, C).
        window (int): Side of the window, for a key that has one.
        hw_shape (tuple[int, int], optional): Of the grid at the end of the tokens.
        setting (Setting): Where and how.
        bound (float, optional): Of the time with the form.

    Returns:
        list[Row]: 'step' and 'saved' of both.
    """
    key = build_key(dict(type=name), x.shape[-1], (window, window)).to(x.device)
    x.requires_grad_()

    def plain(*args: object) -> Tensor:
        with forms_of_keys.use('plain'):
            return key(*args)

    def loss(function: Callable) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with setting.autocast():
                return function(x, hw_shape).float().mean()

        return call

    forms = {REFERENCE: loss(plain), FAST: loss(key)}
    with torch.no_grad():
        # of the definition, whichever way it is computed
        macs = dict.fromkeys(forms, measure.macs(forms[REFERENCE]))
    results = {
        'step': measure.compare(
            {form: measure.step(call, key) for form, call in forms.items()},
            setting.rounds,
        ),
        'saved': {
            form: [measure.saved_bytes(key, call)] for form, call in forms.items()
        },
    }
    x.grad = None
    return [
        compared(
            *(case, form, what, REFERENCE, values, macs, setting),
            bound=bound if what == 'step' else None,
        )
        for what, values in results.items()
        for form in forms
    ]


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument('--keys', nargs='+', choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument('--batch', type=positive, default=8, help="ViT-B's images")
    parser.add_argument(
        '--swin-pixels', type=positive, default=320, help="side of Swin-T's image"
    )
    args, setting = start(parser)
    device, rows = setting.device, []
    width = 32 if setting.quick else 768
    bound = 0.5 if setting.bounded else None
    for name in args.keys:
        x = torch.randn(args.batch, 1 + 14 * 14, width, device=device)
        case = f'{name}, ViT-B {"x".join(map(str, x.shape))}'
        rows += contest(case, name, x, VIT_WINDOW, (14, 14), setting, bound)
    for stage in range(4):
        width = (8 if setting.quick else 96) * 2**stage
        side = -(-args.swin_pixels // (4 * 2**stage * SWIN_WINDOW))  # in windows
        for name in args.keys:
            x = torch.randn(side**2, SWIN_WINDOW**2, width, device=device)
            case = f'{name}, Swin-T stage {stage + 1} {"x".join(map(str, x.shape))}'
            rows += contest(case, name, x, SWIN_WINDOW, None, setting)
    finish('key', rows, setting)


if __name__ == '__main__':
    main()
