"""Backbones: Swin-T against mmdet's own, ViT-B against its linear key.

python benchmarks/backbone.py
python benchmarks/backbone.py --device cuda --compile --json cuda-backbone.json
"""

from networks import LINEAR, STOCK, contest, swin, vit
from report import finish, make_parser, positive, start

#: What the bounds are for.
SWIN_SHAPE = (1, 3, 640, 640)
SWIN_BOUNDS = {
    ('SpatialK', 'forward'): 1.10,
    ('SpatialK', 'step'): 1.20,
    ('SpatialK', 'saved'): 1.00,
    (LINEAR, 'forward'): 0.95,
    (LINEAR, 'step'): 0.95,
}
#: Times are per MAC ratio.
VIT_BOUNDS = {
    (key, what): bound
    for key in ('VanillaK', 'SimpleK', 'KUA')
    for what, bound in (('forward', 1.10), ('step', 1.10), ('saved', 1.05))
}


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument(
        '--backbones', nargs='+', choices=('swin', 'vit'), default=['swin', 'vit']
    )
    parser.add_argument('--swin-keys', nargs='*', default=['SpatialK'], metavar='KEY')
    parser.add_argument(
        '--vit-keys', nargs='*', default=['VanillaK', 'SimpleK', 'KUA'], metavar='KEY'
    )
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=2,
        metavar='PX',
        help="Swin's images, height and width (default: 640 640, on CUDA 800 1333)",
    )
    parser.add_argument(
        '--batch', type=positive, help="Swin's images (default: 1, on CUDA 2)"
    )
    parser.add_argument('--vit-batch', type=positive, default=8, help="ViT's images")
    parser.add_argument(
        '--vit-layers', type=positive, default=12, help='fewer take less time'
    )
    parser.add_argument(
        '--compile', action='store_true', help='measure compiled backbones as well'
    )
    args, setting = start(parser)
    on_cuda, quick = setting.device.type == 'cuda', setting.quick
    size = tuple(args.shape or ()) or (
        (64, 64) if quick else (800, 1333) if on_cuda else (640, 640)
    )
    shape = (args.batch or (2 if on_cuda else 1), 3, *size)
    rows = []
    if 'swin' in args.backbones:
        names = [STOCK, LINEAR, *args.swin_keys]
        rows += contest(
            'Swin-T',
            {name: swin(name, quick=quick) for name in names},
            shape,
            setting,
            bounds=SWIN_BOUNDS if setting.bounded and shape == SWIN_SHAPE else {},
            compiled=args.compile,
        )
    if 'vit' in args.backbones:
        rows += contest(
            'ViT-B' if args.vit_layers == 12 else f'ViT-B, {args.vit_layers} layers',
            {
                name: vit(name, args.vit_layers, quick)
                for name in [LINEAR, *args.vit_keys]
            },
            (args.vit_batch, 3, 224, 224),
            setting,
            bounds=VIT_BOUNDS if setting.bounded and args.vit_batch == 8 else {},
            per_mac=True,
            compiled=args.compile,
        )
    finish('backbone', rows, setting)


if __name__ == '__main__':
    main()
