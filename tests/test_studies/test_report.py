"""The report: from results to a page, and what stops it."""

import json
import re
import subprocess

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS

from studies import jobs, report
from studies.arms import KEYS, LINEAR, PROTOCOL, QUESTIONS, ROOT
from studies.jobs import Job, StudyError


@pytest.fixture
def results(monkeypatch, tmp_path):
    """An empty folder of results."""
    monkeypatch.setattr(jobs, 'RESULTS', tmp_path)
    (tmp_path / 'runs').mkdir()
    return tmp_path / 'runs'


def write(job, top1, **changes):
    result = dict(
        protocol=PROTOCOL,
        metrics={'top-1': top1},
        cost=dict(params=300_000, macs=12_000_000),
        step_seconds=0.1,
        config="dict(type='CompiledBackbone')",
    )
    job.result.write_text(json.dumps({**result, **changes}))


def answer(number, top1):
    """Results of a question, ``top1(arm, seed)`` each."""
    for job in jobs.jobs_of(number):
        write(job, top1(job.arm, job.seed))


def by_rank(arm, seed):
    """KUA is the best of the keys by three points, and the linear key the worst."""
    rank = [LINEAR, 'SpatialK', 'SimpleK', 'VanillaK', 'KUA'].index(arm)
    return 0.90 + 0.01 * rank + 0.001 * seed


def test_a_question_without_its_runs_is_open(results):
    assert 'Open on ViT: 50 of 50 runs' in report.section(1)
    write(Job(LINEAR, 'swin', 0), 0.9)
    assert 'Open on Swin: 49 of 50 runs' in report.section(1)
    command = 'python -m studies.run --questions 1 --backbones swin'
    assert f'`{command}`' in report.section(1)
    assert '|' not in report.section(1)


def test_a_backbone_that_has_its_runs_is_reported_while_the_other_is_open(results):
    answer(1, by_rank)
    Job('KUA', 'swin', 9).result.unlink()
    lines = report.section(1).splitlines()
    assert len([line for line in lines if line.startswith('| ViT ')]) == 5
    assert not [line for line in lines if line.startswith('| Swin ')]
    assert lines[-1].startswith('Open on Swin: 1 of 50 runs')
    figure = report.draw(1)
    assert [axis.get_title() for axis in figure.axes] == ['ViT, top-1 in %']
    report.plt.close(figure)


def test_the_table_of_a_question(results):
    answer(1, by_rank)
    lines = report.section(1).splitlines()
    assert len(lines) == 2 + 2 * 5 + 2
    (row,) = (line for line in lines if line.startswith('| Swin | KUA '))
    cells = [cell.strip() for cell in row.split('|')[1:-1]]
    assert cells[2] == '94.45 (94.00 to 94.90)'
    assert cells[3:5] == ['+4.00', '+4.00 to +4.00']
    assert cells[5:7] == ['0.002', '0.008']  # 2 of 1024, and four times that
    assert cells[7:] == ['300', '12.0', '100 (compiled)']
    (row,) = (line for line in lines if line.startswith('| Swin | linear '))
    assert row.split('|')[4].strip() == '–'


def test_a_step_is_named_compiled_where_most_of_the_runs_were(results):
    answer(1, by_rank)
    for seed in range(10):
        config = 'CompiledBackbone' if seed < 4 else ''
        write(Job(LINEAR, 'vit', seed), 0.9, config=config)
        write(Job('KUA', 'vit', seed), 0.9, config='' if config else 'CompiledBackbone')
    assert report.cost_cells(QUESTIONS[1], 'vit', LINEAR)[-1] == '100'
    assert report.cost_cells(QUESTIONS[1], 'vit', 'KUA')[-1] == '100 (compiled)'


def test_the_best_key_has_the_highest_mean(results):
    assert jobs.best_key('swin') is None
    answer(1, by_rank)
    assert jobs.best_key('swin') == 'KUA'


def test_of_equal_keys_the_cheaper_is_the_best(results):
    for job in jobs.jobs_of(1):
        macs = {'VanillaK': 3, 'SimpleK': 1, 'KUA': 4}.get(job.arm, 2)
        write(job, 0.9, cost=dict(params=1, macs=macs))
    assert jobs.best_key('vit') == 'SimpleK'


def test_arms_compare_on_the_same_images():
    assert report.other_of(QUESTIONS[7], 'best-5000') == 'linear-5000'
    assert report.other_of(QUESTIONS[7], 'linear-5000') == 'linear-5000'
    assert report.other_of(QUESTIONS[8], 'KUA-digits') == 'linear-digits'
    assert report.other_of(QUESTIONS[3], 'best-1-chart') == 'best'


def test_a_figure_has_a_point_for_every_seed(results):
    answer(1, by_rank)
    figure = report.draw(1)
    points = [
        len(cloud.get_offsets()) for axis in figure.axes for cloud in axis.collections
    ]
    assert points == [10] * 5 * 2
    report.plt.close(figure)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"protocol": 0}', 'is a result of protocol 0, this is protocol'),
        ('{"protocol": 1, "metr', 'is no result of a run; remove it'),
        ('[1, 2]', 'is no result of a run'),
    ],
)
def test_results_that_do_not_count(results, text, message):
    job = Job(KEYS[0], 'swin', 3)
    job.result.write_text(text)
    with pytest.raises(StudyError, match=message):
        report.section(1)
    assert job.result.read_text() == text  # nothing is lost


def test_the_committed_page_is_that_of_the_committed_results():
    assert report.page() == report.PAGE.read_text()


def test_options_for_imagenet_100(tmp_path):
    """The page's loop and options, with two of three classes, of two images each."""
    for part in ('train', 'val'):
        for folder in ('n01558993', 'n01692333', 'n02999999'):
            (tmp_path / f'data/imagenet/{part}/{folder}').mkdir(parents=True)
            for number in range(2):
                image = f'data/imagenet/{part}/{folder}/{folder}_{number}.JPEG'
                (tmp_path / image).touch()
    (tmp_path / 'imagenet100.txt').write_text('n01558993\nn02999999\n')
    blocks = re.findall(r'```bash\n(.*?)```', report.page(), re.DOTALL)
    (loop,) = (block for block in blocks if 'for part' in block)
    subprocess.run(['bash', '-ec', loop], cwd=tmp_path, check=True)
    (options,) = (block for block in blocks if block.startswith('train_dataloader'))
    cfg = Config.fromfile(ROOT.parent / 'configs/pretrain/swin_t_spatialk_in1k.py')
    options = options.replace('\\\n', ' ').split()
    cfg.merge_from_dict(dict(option.split('=') for option in options))
    init_default_scope('mmpretrain')
    for dataset in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
        dataset.data_root = str(tmp_path / dataset.data_root)
        built = DATASETS.build(dataset)
        assert built.get_gt_labels().tolist() == [0, 0, 1, 1]
        assert built.get_data_info(3)['img_path'].endswith('n02999999_1.JPEG')
    assert int(cfg.model.head.num_classes) == 100
    assert int(cfg.data_preprocessor.num_classes) == 100
