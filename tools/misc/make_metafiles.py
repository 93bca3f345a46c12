"""Write configs/**/metafile.yml and model-index.yml from the configs themselves.

    python tools/misc/make_metafiles.py           # write
    python tools/misc/make_metafiles.py --check   # exit 1 if a file is out of date

Parameters are those of the whole model. FLOPs, in OpenMMLab's sense of
multiply-accumulates, are those of backbone and neck (where there is one) for one image
of the stated size, counted by torch's own counter on the meta device, where nothing is
computed. Results are only what a run of ours measured; there is none yet.
"""

import argparse
import sys
from pathlib import Path

import torch
import yaml
from mmengine.config import Config

from mmmanikey.engine.build import build_from
from mmmanikey.engine.macs import count_macs
from mmmanikey.visualization.output import write_text

ROOT = Path(__file__).resolve().parents[2]
PAPER = dict(
    Title='A Manifold Representation of the Key in Vision Transformers',
    URL='https://arxiv.org/abs/2402.00534',
)
#: (folder, prefix of the file names, collection, data)
GROUPS = (
    ('.', 'mask_rcnn', 'Mask R-CNN', 'COCO'),
    ('.', 'cascade', 'Cascade Mask R-CNN', 'COCO'),
    ('.', 'mask2former', 'Mask2Former', 'COCO'),
    ('.', 'dino', 'DINO', 'COCO'),
    ('.', 'rtmdet', 'RTMDet', 'COCO'),
    ('pretrain', '', 'ImageNet pretraining', 'ImageNet-1k'),
    ('segmentation', 'upernet', 'UperNet', 'ADE20K'),
    ('segmentation', 'mask2former', 'Mask2Former for semantic segmentation', 'ADE20K'),
)


HEADER = '# Written by tools/misc/make_metafiles.py. No Results: none was run yet.\n'


class PlainDumper(yaml.SafeDumper):
    """Repeats what is equal instead of referring to it."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def dump(content: dict) -> str:
    """YAML in the order of ``content``."""
    return yaml.dump(content, Dumper=PlainDumper, sort_keys=False)


def input_shape(cfg: Config) -> tuple[int, int]:
    """Image size (height, width) at which the FLOPs of a config are stated."""
    if cfg.default_scope == 'mmpretrain':
        return (224, 224)
    if cfg.default_scope == 'mmseg':
        return (512, 512)
    return (1024, 1024) if 'ViT' in cfg.model.backbone.type else (800, 1280)


def measure(cfg: Config) -> dict:
    """Parameters and multiply-accumulates of a config.

    Args:
        cfg (Config): A config of ours.

    Returns:
        dict: ``Parameters`` (int), ``FLOPs`` (int) and ``FLOPs of`` (str).
    """
    shape = input_shape(cfg)
    model = build_from(cfg, whole=True)
    parameters = sum(p.numel() for p in model.parameters())
    model = model.to('meta').eval()

    def run() -> None:
        features = model.backbone(torch.zeros(1, 3, *shape, device='meta'))
        if model.with_neck:
            model.neck(features)

    parts = 'backbone and neck' if model.with_neck else 'backbone'
    return {
        'Parameters': parameters,
        'FLOPs': sum(count_macs(run).values()),
        'FLOPs of': f'{parts} at {shape[0]}x{shape[1]}',
    }


def entry(path: Path, collection: str, data: str) -> dict:
    """One model's entry of a metafile."""
    cfg = Config.fromfile(path)
    return {
        'Name': path.stem,
        'In Collection': collection,
        'Config': str(path.relative_to(ROOT)),
        'Metadata': {'Training Data': data, **measure(cfg)},
    }


def collect(folder: str) -> dict:
    """Content of one folder's metafile."""
    collections, models = [], []
    for where, prefix, collection, data in GROUPS:
        if where != folder:
            continue
        collections.append(dict(Name=collection, Paper=PAPER, README='README.md'))
        for path in sorted((ROOT / 'configs' / folder).glob(f'{prefix}*.py')):
            print(f'  {path.relative_to(ROOT)}', flush=True)
            models.append(entry(path, collection, data))
    return dict(Collections=collections, Models=models)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write the metafiles and model-index.yml from the configs.'
    )
    parser.add_argument('--check', action='store_true', help='compare, write nothing')
    args = parser.parse_args()
    contents, stale = {}, []
    for folder in dict.fromkeys(group[0] for group in GROUPS):
        path = ROOT / 'configs' / folder / 'metafile.yml'
        contents[path] = HEADER + dump(collect(folder))
    index = [str(path.resolve().relative_to(ROOT)) for path in contents]
    contents[ROOT / 'model-index.yml'] = dump(dict(Import=index))
    for path, text in contents.items():
        if not path.is_file() or path.read_text() != text:
            stale.append(path.resolve().relative_to(ROOT))
            if not args.check:
                write_text(path, text)
    print('\n'.join(f'{"stale" if args.check else "wrote"}: {path}' for path in stale))
    sys.exit(1 if args.check and stale else 0)


if __name__ == '__main__':
    main()
