"""Choose the recipe, on the linear key alone, and record the search.

    python -m studies.search

Trains seed 0 of the linear key with each setting on 55,000 training images and
measures on the 5,000 others. Writes ``studies/results/search.json``; the setting with
the highest mean top-1 over both backbones is written into ``configs/classify.py`` by
hand. A setting that is done is not done again.
"""

import itertools
import json
import sys

from mmengine.runner import Runner

from mmmanikey.visualization.output import write_text

from .arms import BACKBONES, LINEAR, config_of
from .jobs import RESULTS, WORK

PLACE = RESULTS / 'search.json'
GRID = dict(lr=(1e-3, 2e-3, 4e-3), weight_decay=(0.05,), erase_prob=(0.0, 0.25))


def settings() -> list[dict]:
    """All settings of the grid."""
    return [dict(zip(GRID, values)) for values in itertools.product(*GRID.values())]


def try_setting(setting: dict, backbone: str) -> float:
    """Top-1 in percent on the validation images."""
    cfg = config_of(LINEAR, backbone)
    optimizer = cfg.optim_wrapper.optimizer
    optimizer.lr, optimizer.weight_decay = setting['lr'], setting['weight_decay']
    cfg.train_dataloader.dataset.part = 'search'
    cfg.val_dataloader.dataset.part = 'validation'
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform['type'] == 'RandomErasing':
            transform['erase_prob'] = setting['erase_prob']
    name = '-'.join(f'{value:g}' for value in setting.values())
    cfg.work_dir = str(WORK / f'search-{backbone}-{name}')
    cfg.randomness = dict(seed=0)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.message_hub.get_scalar('val/accuracy/top1').current()


def main() -> int:
    rows = json.loads(PLACE.read_text()) if PLACE.is_file() else []
    for setting, backbone in itertools.product(settings(), BACKBONES):
        row = dict(setting, backbone=backbone)
        if any(row.items() <= known.items() for known in rows):
            continue
        rows.append({**row, 'top-1': try_setting(setting, backbone)})
        write_text(PLACE, json.dumps(rows, indent=1) + '\n')
        print(rows[-1], flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
