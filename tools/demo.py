"""Everything once, small: digits, pretraining, a downstream model, metrics, pictures.

    python tools/demo.py [swin | vit | cascade | mask2former | seg]

A nano backbone learns to classify single digits with mmpretrain; a detector of mmdet,
or a segmentor of mmseg, starts from it and learns to find digits in clutter. On two
CPU cores this takes some minutes. What is done is not done again: after an
interruption, or with nothing changed, a second run goes on from there.
"""

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from misc.stage import ROOT, Stage, StageError

CONFIGS = ROOT / 'configs/demo'
DATA = Path('data/digits')
WORK = Path('work_dirs/demo')  # of the first demo, whose pretraining others share
QUICK_SIZES = [
    '--train-images=8',
    '--val-images=4',
    '--train-crops=64',
    '--val-crops=20',
]


@dataclass
class Demo:
    """What to train and what it should reach.

    Args:
        pretrain (str): Config of the pretraining.
        model (str): Config of the model that starts from it.
        work (Path): Its work dir.
        targets (dict[str, float]): What each metric should reach.
        pretrain_work (Path): Work dir of the pretraining.
    """

    pretrain: str
    model: str
    work: Path = WORK
    targets: dict[str, float] = field(default_factory=dict)
    pretrain_work: Path = WORK


DEMOS = {
    'swin': Demo(
        'pretrain_swin_nano_spatialk.py',
        'mask_rcnn_swin_nano_spatialk.py',
        targets={'top-1': 0.97, 'bbox_mAP': 0.75, 'segm_mAP': 0.80},
    ),
    'vit': Demo(
        'pretrain_vit_nano_vanillak.py',
        'mask_rcnn_vit_nano_vanillak.py',
        Path('work_dirs/demo_vit'),
        targets={'segm_mAP': 0.60},
        pretrain_work=Path('work_dirs/demo_vit'),
    ),
    'cascade': Demo(
        'pretrain_swin_nano_spatialk.py',
        'cascade_mask_rcnn_swin_nano_spatialk.py',
        Path('work_dirs/demo_cascade'),
    ),
    'mask2former': Demo(
        'pretrain_swin_nano_spatialk.py',
        'mask2former_swin_nano_spatialk.py',
        Path('work_dirs/demo_mask2former'),
        targets={'segm_mAP': 0.60},
    ),
    'seg': Demo(
        'pretrain_swin_nano_spatialk.py',
        'upernet_swin_nano_spatialk.py',
        Path('work_dirs/demo_seg'),
        targets={'mIoU': 0.75},
    ),
}
CASCADE_MARGIN = 0.02  # that Cascade may stay below Mask R-CNN's bbox mAP


def training(
    config: Path, batch_size: int, work: Path, quick: bool, *options: str
) -> list:
    """Command of a training: on the CPU two processes do what one does on a GPU.

    Models this small gain little from more threads, and much from more processes, if
    there is more than a few images.
    """
    import torch

    one = quick or torch.cuda.is_available()
    processes = 1 if one else min(2, os.cpu_count() or 1)
    launch = [ROOT / 'tools/dist_train.sh', config, processes]
    if processes == 1:
        launch = ['python', ROOT / 'tools/train.py', config]
    return [
        *(*launch, '--resume'),
        *('--work-dir', work, '--cfg-options'),
        *(f'train_dataloader.batch_size={batch_size // processes}', *options),
    ]


def last_checkpoint(folder: Path) -> str:
    """Relative path of the last checkpoint that a training wrote."""
    return str(folder / Path((folder / 'last_checkpoint').read_text().strip()).name)


def run_demo(demo: Demo, seed: int, scratch: bool, quick: bool) -> None:
    """Run the stages, then draw and report."""
    from analysis.demo_report import read_test, report  # imports much: after --help
    from mmengine.config import Config

    stages: list[Stage] = []

    def stage(*args) -> Stage:
        stages.append(Stage(*args))
        stages[-1].run()
        return stages[-1]

    stage(
        WORK / 'data',
        'Data: handwritten digits on clutter',
        [
            'python',
            ROOT / 'tools/data/make_digits.py',
            '--out',
            DATA,
            *(QUICK_SIZES if quick else []),
        ],
        str(time.time()),  # it sees itself whether there is anything to do
    )
    options = [f'randomness.seed={seed}']
    options += ['train_cfg.max_epochs=1'] if quick else []
    config = CONFIGS / demo.pretrain
    cfg = Config.fromfile(config, import_custom_modules=False)
    depends = (DATA / 'digits.json').read_text() + cfg.pretty_text
    pretrain = stage(
        demo.pretrain_work / 'pretrain',
        'Pretraining: classify single digits',
        training(
            config,
            cfg.train_dataloader.batch_size,
            demo.pretrain_work / 'pretrain',
            quick,
            *options,
        ),
        depends,
    )
    start = last_checkpoint(pretrain.folder)
    config = CONFIGS / demo.model
    cfg = Config.fromfile(config, import_custom_modules=False)
    depends += cfg.pretty_text
    segments = cfg.model.type == 'EncoderDecoder'
    name = 'segmentor' if segments else 'detector'
    pretrained = f'model.backbone.init_cfg.checkpoint={start}'
    model = stage(
        demo.work / name,
        f'{cfg.model.type}: find and segment digits, from the pretrained backbone',
        training(
            config,
            cfg.train_dataloader.batch_size,
            demo.work / name,
            quick,
            *options,
            pretrained,
        ),
        depends,
    )
    if scratch:
        folder = demo.work / 'scratch'
        stage(
            folder,
            'For comparison: the same from scratch',
            training(
                config,
                cfg.train_dataloader.batch_size,
                folder,
                quick,
                *options,
                'model.backbone.init_cfg=None',
            ),
            depends,
        )
    folder = demo.work / 'test'
    predictions = folder / ('maps' if segments else 'predictions.pkl')
    write = (
        ['--cfg-options', f'test_evaluator.output_dir={predictions}']
        if segments
        else ['--out', predictions]
    )
    stage(
        folder,
        f'Test: the {name} on the val images',
        ['python', ROOT / 'tools/test.py', config, last_checkpoint(model.folder)]
        + ['--work-dir', folder, *write],
        depends + model.fingerprint,
    )
    targets = dict(demo.targets)
    if cfg.model.type == 'CascadeRCNN' and (WORK / 'test').is_dir():
        mask_rcnn = read_test(WORK / 'test')['coco/bbox_mAP']
        targets['bbox_mAP'] = mask_rcnn - CASCADE_MARGIN
    folders = {stage.folder.name: stage.folder for stage in stages}
    seconds = {stage.folder.name: stage.seconds for stage in stages}
    data = DATA / ('semantic' if segments else 'detection')
    print('\n' + report(folders, data, predictions, seconds, targets))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Run a whole demo.')
    parser.add_argument(
        'name',
        nargs='?',
        choices=DEMOS,
        default='swin',
        help='swin: Mask R-CNN on a Swin with SpatialK (default); vit: ViTDet-style '
        'Mask R-CNN on a ViT with VanillaK; cascade: Cascade Mask R-CNN, mask2former: '
        'Mask2Former and seg: UperNet, all on the same Swin',
    )
    parser.add_argument(
        '--scratch',
        action='store_true',
        help='also train the model from scratch, to compare',
    )
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument(
        '--folder',
        type=Path,
        help='where data/ and work_dirs/ go; by default the repository',
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='a few images and one epoch, to see that everything runs; by default in '
        'work_dirs/quick',
    )
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwind: end the stage
    folder = args.folder or (ROOT / 'work_dirs/quick' if args.quick else ROOT)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        run_demo(DEMOS[args.name], args.seed, args.scratch, args.quick)
    except (StageError, OSError) as error:
        print(f'\n{error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted; run it again to go on', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
