"""One run of the study: train, measure, write its JSON.

python -m studies.one ARM BACKBONE SEED
"""

import argparse
import json
import platform
import statistics
import sys
from importlib import metadata
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmmanikey
from mmmanikey.engine.resume import last_checkpoint
from mmmanikey.visualization.output import write_text
from mmmanikey.visualization.scalars import read_scalars

from .arms import PROTOCOL
from .cost import cost
from .jobs import DETECTORS, Job, config_of

#: What is measured after the last epoch: by mmengine's names, ours and the unit.
METRICS = {
    'val/accuracy/top1': ('top-1', 0.01),
    'val/coco/bbox_mAP': ('bbox mAP', 1.0),
    'val/coco/segm_mAP': ('segm mAP', 1.0),
}
MODULES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain')


def versions() -> dict[str, str]:
    """Of what a result may depend on."""
    names = metadata.packages_distributions()
    found = {m: metadata.version(names[m][0]) for m in MODULES if m in names}
    return dict(
        python=platform.python_version(), mmmanikey=mmmanikey.__version__, **found
    )


def train(cfg: Config, shorter: int) -> dict[str, float]:
    """Train from where an interruption left it; what the last epoch reached (0..1)."""
    if shorter > 1:
        for part in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
            if part.type != 'StudyDigits':  # of which there are few
                part.num_images = 10 * (1000 // shorter)
        cfg.train_dataloader.dataset.repeat_to = cfg.images_an_epoch // shorter
    checkpoint = last_checkpoint(cfg.work_dir)
    cfg.resume, cfg.load_from = checkpoint is not None, checkpoint
    if cfg.resume:
        cfg.model.backbone.init_cfg = None
    runner = Runner.from_cfg(cfg)
    runner.train()
    measured = runner.message_hub.log_scalars
    return {
        name: round(unit * float(measured[key].current()), 6)
        for key, (name, unit) in METRICS.items()
        if key in measured
    }


def curve(work_dir: Path) -> list[list[float]]:
    """Iterations and training loss, as they were logged."""
    rows = [row for row in read_scalars(work_dir) if 'loss' in row]
    return [[row['iter'], round(row['loss'], 5)] for row in rows]


def step_seconds(work_dir: Path) -> float:
    """Median time of an iteration without that of its images."""
    rows = [row for row in read_scalars(work_dir) if 'loss' in row]
    return statistics.median(row['time'] - row['data_time'] for row in rows)


def run(job: Job, shorter: int = 1) -> dict:
    """Run a job and write its result.

    Args:
        job (Job): Which.
        shorter (int): Divides the number of images; a result of a shortened run says
            so and counts in no report. Defaults to 1.

    Returns:
        dict: What was written.
    """
    cfg = config_of(job)
    if shorter > 1:
        cfg.work_dir = f'{cfg.work_dir}-shorter{shorter}'
    text = cfg.pretty_text
    metrics = train(cfg, shorter)
    work_dir = Path(cfg.work_dir)
    result = dict(
        protocol=PROTOCOL,
        arm=job.arm,
        backbone=job.backbone,
        seed=job.seed,
        metrics=metrics,
        cost={} if job.arm in DETECTORS else cost(cfg),
        step_seconds=step_seconds(work_dir),
        threads=torch.get_num_threads(),
        device='cuda' if torch.cuda.is_available() else platform.machine(),
        versions=versions(),
        curve=curve(work_dir),
        config=text,
    )
    place = job.result
    if shorter > 1:
        result['shorter'] = shorter
        place = work_dir / 'result.json'
    write_text(place, json.dumps(result, indent=1) + '\n')
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description='Do one run of the study.')
    parser.add_argument('arm')
    parser.add_argument('backbone')
    parser.add_argument('seed', type=int)
    parser.add_argument('--shorter', type=int, default=1, help='divide the images')
    args = parser.parse_args()
    if args.shorter > 1 and args.arm in DETECTORS:
        parser.error('--shorter is for classifiers')
    result = run(Job(args.arm, args.backbone, args.seed), args.shorter)
    print(result['metrics'])
    return 0


if __name__ == '__main__':
    sys.exit(main())
