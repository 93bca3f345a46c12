"""Export a backbone or a detector without its post-processing, and check what it gives.

    python tools/deploy/export.py CONFIG swin.onnx --checkpoint FILE
    python tools/deploy/export.py CONFIG detector.pt2 --part detector --shape 800 1344

OUT ends in .onnx (ONNX) or .pt2 (torch.export). The network takes normalised images, as
the config's data preprocessor makes them. A backbone gives its maps; a detector gives
the maps of its neck, and scores and deltas of its RPN or dense head for each of them,
before anchors, sigmoid and NMS. The file is read back and run, and kept only if it
gives what the model gives, to an absolute or relative 1e-4, also for another batch or
size where these are dynamic.
"""

import argparse
import logging
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from mmmanikey.anywhere.twin import image_shape
from mmmanikey.backbones.structure import attention_layers
from mmmanikey.checkpoint import PretrainedBackbone
from mmmanikey.checkpoint.entries import weights_in
from mmmanikey.checkpoint.files import CheckpointError, read_checkpoint
from mmmanikey.deploy import Part, check_file, dense_head, trace, write
from mmmanikey.engine import cli
from mmmanikey.engine.build import build_from
from mmmanikey.engine.cli import in_one_line as reason
from mmmanikey.moving import write_whole

#: Dimensions of the image that may change.
DYNAMIC = {
    'none': {},
    'batch': {0: 'batch'},
    'all': {0: 'batch', 2: 'height', 3: 'width'},
}
#: What a dynamic size is changed by for the check. mmdet pads to multiples of 32.
OTHER_SIZE = {'backbone': (9, 19), 'detector': (32, 64)}
#: The exporter writes opset 18 and what onnx can raise it to.
MIN_OPSET = 18


def build_backbone(config: str, checkpoint: str | None) -> nn.Module:
    """Build the backbone of a config, of any class, and load its weights."""
    if checkpoint is not None:
        cli.check_checkpoint(checkpoint)
    backbone = build_from(cli.read_config(config))
    if checkpoint is not None:
        PretrainedBackbone(checkpoint).load(backbone)
    return backbone


def build_detector(config: str, checkpoint: str | None) -> nn.Module:
    """Build a whole detector and load all of its weights.

    Raises:
        UsageError: If the config is of no detector whose head works on maps alone.
        CheckpointError: If the checkpoint does not fit.
    """
    model = build_from(cli.read_config(config), whole=True)
    kinds = {cls.__name__ for cls in type(model).__mro__}
    if not kinds & {'TwoStageDetector', 'SingleStageDetector'} or not dense_head(model):
        raise cli.UsageError(
            f'--part detector takes a detector of mmdet with an RPN or one dense head, '
            f'and {config!r} is a {type(model).__name__}; --part backbone takes it'
        )
    if checkpoint is not None:
        cli.check_checkpoint(checkpoint)
        weights = weights_in(read_checkpoint(checkpoint), checkpoint)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f'{checkpoint} does not fit {config!r}: {reason(error)}'
            ) from error
    return model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('out', type=Path, metavar='OUT', help='file: .onnx or .pt2')
    parser.add_argument(
        '--checkpoint', help='checkpoint; without one the weights are random'
    )
    parser.add_argument(
        '--part',
        choices=['backbone', 'detector'],
        default='backbone',
        help='what to export; default %(default)s',
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        default=(224, 224),
        metavar='PX',
        help='height and width of the image; default 224 224',
    )
    parser.add_argument('--batch', type=int, default=1, help='images; default 1')
    parser.add_argument(
        '--dynamic',
        choices=list(DYNAMIC),
        default='batch',
        help='what may change: nothing, the batch, or batch, height and width; '
        'default %(default)s',
    )
    parser.add_argument(
        '--opset', type=int, default=20, help='of ONNX; default %(default)s'
    )
    return parser.parse_args()


def check_args(args: argparse.Namespace) -> None:
    """Raise UsageError for what cannot be, before anything is built."""
    if args.out.suffix not in ('.onnx', '.pt2'):
        raise cli.UsageError(f'OUT must end in .onnx or .pt2, got {str(args.out)!r}')
    if args.out.is_dir():
        raise cli.UsageError(f'{str(args.out)!r} is a folder, OUT names a file')
    if min(args.batch, *args.shape) < 1:
        raise cli.UsageError(
            f'--batch and --shape must be positive, got {args.batch} and '
            f'{args.shape[0]} {args.shape[1]}'
        )
    if not hasattr(torch.compiler, 'is_exporting'):
        raise cli.UsageError(f'torch {torch.__version__} is too old to export with')
    if args.out.suffix == '.pt2':
        return
    needed = ('onnx', 'onnxscript', 'onnxruntime')
    if missing := [name for name in needed if not find_spec(name)]:
        raise cli.UsageError(
            f'ONNX needs {", ".join(missing)}: pip install -r requirements/deploy.txt'
        )
    from onnx.defs import onnx_opset_version

    if not MIN_OPSET <= args.opset <= onnx_opset_version():
        raise cli.UsageError(
            f'--opset must be {MIN_OPSET} to {onnx_opset_version()}, got {args.opset}'
        )


def check_size_may_change(part: Part) -> None:
    """Raise UsageError for a Swin that decides by the size whether to shift."""
    layers = attention_layers(part)
    if not all(getattr(layer, 'pad_small_map', True) for layer in layers):
        raise cli.UsageError(
            'a Swin without pad_small_map=True does not shift maps of one window, so '
            'its size cannot be dynamic; set it in the config or use --dynamic batch'
        )


def export(part: Part, args: argparse.Namespace) -> list[str]:
    """Trace, write and check; lines that say what came of it."""
    dynamic = DYNAMIC[args.dynamic]
    # torch takes a dimension of one for one that is always one
    batch = max(2, args.batch) if dynamic else args.batch
    channels = image_shape(part)[1]
    shapes = [(batch, channels, *args.shape)]
    if dynamic:
        other = (n + more for n, more in zip(args.shape, OTHER_SIZE[args.part]))
        shapes.append((1, channels, *(other if 2 in dynamic else args.shape)))
    image = torch.randn(shapes[0])
    try:
        with torch.no_grad():
            names = list(part(image))
    except Exception as error:  # networks of any project
        raise cli.UsageError(
            f'the model does not take {args.shape[0]} x {args.shape[1]} images: '
            f'{reason(error)}'
        ) from error
    said = []

    def write_checked(path: Path) -> None:
        write(trace(part, image, dynamic), path, names, dynamic, args.opset)
        for shape in shapes:
            size = ' x '.join(map(str, shape))
            try:
                largest = check_file(part, path, shape)
            except Exception as error:  # of torch and onnxruntime
                raise cli.UsageError(
                    f'the export is wrong on an image of {size}: {reason(error)}'
                ) from error
            said.append(f'{size}: largest difference {largest:.1e}')

    try:
        write_whole(args.out, write_checked)
    except cli.UsageError:
        raise
    except OSError as error:
        raise cli.UsageError(f'cannot write {str(args.out)!r}: {error}') from error
    except Exception as error:  # of torch, onnxscript and onnxruntime
        raise cli.UsageError(f'{args.part} does not export: {reason(error)}') from error
    return [*said, f'{args.out}: {", ".join(names)}']


def main() -> None:
    args = parse_args()
    check_args(args)
    for name in ('torch.onnx', 'onnxscript', 'onnx_ir'):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)  # random weights are the same on every run
    build = dict(backbone=build_backbone, detector=build_detector)[args.part]
    part = Part(build(args.config, args.checkpoint))
    if args.dynamic == 'all':
        check_size_may_change(part)
    for line in export(part, args):
        print(line)


if __name__ == '__main__':
    cli.tool(main)
