"""Print which form each layer of a config's backbone runs, and why none is faster.

python -m mmmanikey.forms CONFIG [--device cuda] [--size 224 224] [--train]
"""

import argparse

import torch

from ..engine import cli
from ..engine.build import build_from
from . import recorded


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m mmmanikey.forms',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--device', choices=['cpu', 'cuda'], default='cpu', help='default: cpu'
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        default=(224, 224),
        metavar='PX',
        help='height and width of the image; default: 224 224',
    )
    parser.add_argument('--train', action='store_true', help='as in training')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = cli.read_config(args.config)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise cli.UsageError('--device cuda needs a GPU, and PyTorch sees none')
    model = build_from(cfg).to(args.device).train(args.train)
    names = {module: name for name, module in model.named_modules()}
    images = torch.zeros(1, 3, *args.size, device=args.device)
    with recorded() as decisions, torch.set_grad_enabled(args.train):
        model(images)
    if not decisions:
        raise cli.UsageError(f'no layer of {args.config!r} has forms')
    width = max(len(names[decision.module]) for decision in decisions)
    for decision in decisions:
        print(f'{names[decision.module]:{width}}  {decision}')  # noqa: T201


if __name__ == '__main__':
    cli.tool(main)
