"""The runs of the study: which there are, what each needs, where results lie."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from . import arms
from .arms import LINEAR, PROTOCOL, QUESTIONS, ROOT

RESULTS = ROOT / 'results'
WORK = Path('work_dirs/study')
DETECTORS = ('det-scratch', 'det-linear', 'det-best', 'det-residual')
#: What each detector starts its backbone from.
PRETRAINED = {
    'det-scratch': None,
    'det-linear': LINEAR,
    'det-best': 'best',
    'det-residual': LINEAR,
}


class StudyError(Exception):
    """Something that the user can mend, told in one sentence."""


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        arm (str): Name of the arm.
        backbone (str): 'swin' or 'vit'.
        seed (int): Of weights, order and augmentation.
    """

    arm: str
    backbone: str
    seed: int

    @property
    def name(self) -> str:
        """Of its files; ``best`` is the run of the key that question 1 decided on."""
        arm = (self.arm == 'best' and best_key(self.backbone)) or self.arm
        return f'{self.backbone}-{arm}-seed{self.seed}'

    @property
    def result(self) -> Path:
        """Its JSON."""
        return RESULTS / 'runs' / f'{self.name}.json'

    @property
    def work_dir(self) -> Path:
        return WORK / self.name

    @property
    def pretraining(self) -> 'Job | None':
        """The run whose weights it starts from, if any."""
        arm = PRETRAINED.get(self.arm)
        return arm and Job(arm, self.backbone, self.seed)


def jobs_of(number: int) -> Iterator[Job]:
    """The runs that a question needs, seed by seed, so that pairs are done together."""
    question = QUESTIONS[number]
    for seed in range(question.seeds):
        for backbone in question.backbones:
            for arm in question.arms:
                yield Job(arm, backbone, seed)


def all_jobs(numbers: tuple[int, ...] = tuple(QUESTIONS)) -> list[Job]:
    """The runs of some questions, each once, in the order of the questions."""
    jobs = (job for number in numbers for job in jobs_of(number))
    return list({job.name: job for job in jobs}.values())


def read_result(job: Job) -> dict | None:
    """The result of a run; None if there is none.

    Raises:
        StudyError: If the file is damaged, or of another version of the protocol.
    """
    if not job.result.is_file():
        return None
    try:
        result = json.loads(job.result.read_text())
        version = result['protocol']
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f'{job.result} is no result of a run; remove it, and it is run again'
        ) from error
    if version != PROTOCOL:
        raise StudyError(
            f'{job.result} is a result of protocol {version}, this is protocol '
            f'{PROTOCOL}; move it away, and it is run again'
        )
    return result


def best_key(backbone: str) -> str | None:
    """The key of the highest mean top-1 in question 1; None before it is answered.

    The rule was written down before the runs. Of equals, the one with fewer
    multiply-accumulates.
    """
    ranked = []
    for key in arms.KEYS:
        results = [
            read_result(Job(key, backbone, seed)) for seed in range(QUESTIONS[1].seeds)
        ]
        if any(result is None for result in results):
            return None
        mean = sum(result['metrics']['top-1'] for result in results) / len(results)
        ranked.append((-round(mean, 6), results[0]['cost']['macs'], key))
    return min(ranked)[2]


def config_of(job: Job) -> Config:
    """The whole config of a run, its seed and folder included."""
    best = best_key(job.backbone)
    if job.arm in DETECTORS:
        cfg = detector_config(job, best)
    else:
        cfg = arms.config_of(job.arm, job.backbone, best)
    cfg.work_dir = str(job.work_dir)
    cfg.randomness = dict(seed=job.seed)
    detects = job.arm in DETECTORS
    other = 'detect.py' if detects else f'{job.backbone}.py'
    paired = dict(type='PairedStart', config=other)
    if detects:
        paired['skip'] = 'backbone.'
    cfg.custom_hooks = [*cfg.custom_hooks, paired]
    return cfg


def detector_config(job: Job, best: str | None) -> Config:
    """The config of a run of question 6."""
    cfg = Config.fromfile(ROOT / 'configs/detect.py')
    if job.arm in ('det-best', 'det-residual'):
        if best is None:
            raise ValueError(f'{job.arm} needs the best key, which question 1 decides')
        residual = dict(residual=True) if job.arm == 'det-residual' else {}
        cfg.model.backbone.key = arms.key_config(best, job.backbone, **residual)
    if job.pretraining:
        cfg.model.backbone.init_cfg = dict(
            type='mmmanikey.PretrainedBackbone',
            checkpoint=str(weights_of(job.pretraining)),
        )
    return cfg


def weights_of(job: Job) -> Path:
    """Where a run of classification leaves its last weights."""
    epochs = Config.fromfile(ROOT / 'configs/classify.py').epochs
    return job.work_dir / f'epoch_{epochs}.pth'
