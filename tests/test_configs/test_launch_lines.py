"""Commands that a user may paste train with the batch that the learning rate is for."""

import re
import shlex
from pathlib import Path

import pytest
import zoo

from mmmanikey.checkpoint.pretraining import begins_as_stock, ways_to_start

DEMOS = sorted(f'demo/{path.stem}' for path in (zoo.CONFIGS / 'demo').glob('*.py'))
#: Images per step of each recipe, by the start of the config's name.
BATCHES = {
    'mask_rcnn_swin': 16,
    'cascade_mask_rcnn_swin': 16,
    'mask_rcnn_vit': 64,
    'cascade_mask_rcnn_vit': 64,
    'pretrain/': 1024,
    'segmentation/': 16,
    'demo/mask_rcnn': 4,
    'demo/cascade': 4,
    'demo/mask2former': 8,
    'demo/pretrain_swin': 16,
    'demo/pretrain_vit': 32,
    'demo/upernet': 8,
}
#: A training's command, up to the end of its line (or lines) or of its quotes.
TRAINING = re.compile(
    r'(?P<tool>dist_train\.sh|slurm_train\.sh|[\w$/.]*train\.py|mim train mmmanikey)'
    r'\s+(?P<arguments>(?:\\\n|[^\n`#)])+)'
)
SCALED = re.compile(r'--auto-scale-lr|auto_scale_lr\.enable=True')
ASSIGNED = re.compile(r'^CONFIG=(\S+)', re.MULTILINE)
#: A loop of the shell over words that are written out.
LOOP = re.compile(
    r'^for (?P<name>\w+) in (?P<words>.*); do\n(?P<body>(?:.*\n)*?)done$', re.MULTILINE
)
#: Configs that the documentation has its readers write, with the one they inherit.
WRITTEN = re.compile(
    r"Write this as `(configs/\S+)`.*?_base_ = '\./(\w+)\.py'", re.DOTALL
)


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_base_batch_size(name):
    """The batch that --auto-scale-lr scales from, in whole processes.

    mmdet's own train.py asks for the entry ``enable``.
    """
    cfg = zoo.read(name)
    (batch,) = (size for start, size in BATCHES.items() if name.startswith(start))
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert batch % cfg.train_dataloader.batch_size == 0
    assert not cfg.auto_scale_lr.get('enable')
    assert cfg.default_scope != 'mmdet' or 'enable' in cfg.auto_scale_lr


def read_by_users():
    """The text files in which somebody may look for a command."""
    patterns = ('*.md', 'Makefile', 'Dockerfile', 'docs/*.md', 'benchmarks/*')
    below = ('configs', 'mmmanikey', 'tools')
    found = [path for pattern in patterns for path in zoo.ROOT.glob(pattern)]
    found += [path for folder in below for path in (zoo.ROOT / folder).rglob('*.*')]
    suffixes = ('.md', '.py', '.sh', '')
    return [path for path in found if path.is_file() and path.suffix in suffixes]


def written_configs():
    """Configs of the documentation, by the shipped config they inherit."""
    pages = '\n'.join(path.read_text() for path in (zoo.ROOT / 'docs').glob('*.md'))
    return dict(WRITTEN.findall(pages))


def flaw(tool, arguments, config_of):
    """Why a command trains with another batch, or None.

    ``config_of`` says which shipped config a word stands for: a name of ``zoo.read``,
    or None for a word that is no config, such as the CONFIG of a usage line.
    """
    words = arguments.replace('\\\n', ' ').split()
    name = next(filter(None, map(config_of, words)), None)
    if name is None or SCALED.search(arguments):
        return None
    cfg = zoo.read(name)
    counts = [word for word in words if word.isdigit()]
    processes = int(counts[0]) if tool == 'dist_train.sh' and counts else 1
    batch = processes * cfg.train_dataloader.batch_size
    wanted = cfg.auto_scale_lr.base_batch_size
    if batch != wanted:
        return f'{tool} {arguments}: {batch} images a step, the rate is for {wanted}'
    return None


def unrolled(loop):
    """What the shell runs: a loop's body once for each of its words."""
    variable = '${' + loop['name'] + '}'
    words = shlex.split(loop['words'])
    return ''.join(loop['body'].replace(variable, word) for word in words)


def flaws(text, written):
    text = LOOP.sub(unrolled, text)
    assigned = ASSIGNED.search(text)

    def config_of(word):
        if word == '$CONFIG' and assigned:
            word = assigned[1]
        word = word.strip('\'",;:')
        if not word.startswith('configs/') or not word.endswith('.py'):
            return None
        if word in written:
            return written[word]
        assert (zoo.ROOT / word).is_file(), f'there is no {word}'
        return word.removeprefix('configs/').removesuffix('.py')

    found = [
        flaw(match['tool'].split('/')[-1], match['arguments'], config_of)
        for match in TRAINING.finditer(text)
    ]
    return [sentence for sentence in found if sentence]


def test_commands_of_the_repository():
    written = written_configs()
    assert 'configs/parts.py' in written
    found = {str(path): flaws(path.read_text(), written) for path in read_by_users()}
    assert not {path: sentences for path, sentences in found.items() if sentences}


def test_commands_are_found():
    """The pattern sees each kind of command, and what is wrong with it."""
    config = 'configs/pretrain/vit_s_in1k.py'
    wrong = [
        f'tools/dist_train.sh {config} 8',
        f'# see: tools/dist_train.sh {config} 16',
        f'python tools/train.py {config}',
        f'first (`python tools/train.py {config}`), then',
        f'CONFIG={config}\npython $PRE/train.py $CONFIG',
        f'mim train mmmanikey {config}',
        f'tools/dist_train.sh {config} \\\n    8 --amp',
        "for key in '' _kua; do\n"
        '    tools/dist_train.sh configs/pretrain/vit_s${key}_in1k.py 8\ndone',
    ]
    right = [
        f'tools/dist_train.sh {config} 4',
        f'tools/dist_train.sh {config} 8 --auto-scale-lr',
        f'tools/dist_train.sh {config} 8 \\\n    --auto-scale-lr',
        f'python tools/train.py {config} --cfg-options auto_scale_lr.enable=True',
        'tools/dist_train.sh CONFIG 8',
    ]
    assert [len(flaws(text, {})) for text in wrong] == [*[1] * 7, 2]
    assert [flaws(text, {}) for text in right] == [[]] * len(right)


@pytest.mark.parametrize('name', [*zoo.ALL, *DEMOS])
def test_commands_of_the_error_for_missing_weights(name, monkeypatch):
    monkeypatch.chdir(zoo.ROOT)
    cfg = zoo.load(name)
    backbone = cfg.model.backbone
    if 'init_cfg' not in backbone or begins_as_stock(backbone.get('key')):
        return
    text = ways_to_start(cfg.model)
    match = re.search(r'`(?P<tool>.*?dist_train\.sh) (?P<arguments>[^`]*)`', text)
    assert match, text
    assert not flaws(match[0], {})
    assert Path(match['arguments'].split()[0]).is_file()
