"""The queue: what it starts, what it leaves, and that interruptions change nothing."""

import json
import signal
import subprocess
import sys

import pytest

from studies import jobs, run
from studies.arms import LINEAR, PROTOCOL, ROOT
from studies.jobs import Job, StudyError


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Results and work dirs of their own."""
    monkeypatch.setattr(jobs, 'RESULTS', tmp_path / 'results')
    monkeypatch.setattr(jobs, 'WORK', tmp_path / 'work')
    monkeypatch.setattr(run, 'WORK', tmp_path / 'work')
    (tmp_path / 'results/runs').mkdir(parents=True)
    (tmp_path / 'work').mkdir()
    return tmp_path


def finish(job, top1=0.5):
    content = dict(protocol=PROTOCOL, metrics={'top-1': top1}, cost=dict(macs=1))
    job.result.write_text(json.dumps(content))


@pytest.fixture
def stand_in(monkeypatch, folders):
    """Runs that only note that they ran; the names in the list fail."""
    started, failing = [], []

    def start(job, shorter):
        started.append(job)
        command = 'echo what went wrong; exit 3' if job in failing else 'exit 0'
        finish(job)
        with (run.WORK / f'{job.name}.log').open('w') as log:
            return subprocess.Popen(['sh', '-c', command], stdout=log)

    monkeypatch.setattr(run, 'start', start)
    wait = run.time.sleep
    monkeypatch.setattr(run.time, 'sleep', lambda seconds: wait(0.01))
    return started, failing


def test_done_runs_are_not_done_again(stand_in, capsys):
    started, _ = stand_in
    todo = [Job(LINEAR, 'swin', seed) for seed in range(4)]
    finish(todo[1])
    run.work_off(todo, processes=2, shorter=1)
    assert started == [todo[0], todo[2], todo[3]]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '1 of 4 runs are done'
    assert '4 of 4 runs, about 0.0 h left' in lines[-1]


def test_the_best_is_a_run_of_its_key(stand_in):
    """Which is not done again, in whichever queue question 1 is answered."""
    started, _ = stand_in
    todo = jobs.all_jobs((1, 2))
    todo = [job for job in todo if job.backbone == 'vit']
    assert Job('best', 'vit', 0) in todo
    run.work_off(todo, processes=2, shorter=1)
    key = jobs.best_key('vit')
    assert Job('best', 'vit', 3).result == Job(key, 'vit', 3).result
    assert len(started) == 50 + 4 * 5
    assert not [job for job in started if job.arm == 'best']
    weights = jobs.weights_of(Job('best', 'vit', 0))
    assert weights == jobs.weights_of(Job(key, 'vit', 0))
    names = [job.name for job in jobs.all_jobs()]
    assert len(names) == len(set(names))


def test_a_failed_run_is_told_and_stops_the_others(stand_in):
    started, failing = stand_in
    todo = [Job(LINEAR, 'swin', seed) for seed in range(3)]
    failing.append(todo[0])
    with pytest.raises(StudyError, match='what went wrong\n.*seed0 failed .* 3; the'):
        run.work_off(todo, processes=1, shorter=1)
    assert started == todo[:1]


def test_what_nobody_makes_is_told(stand_in):
    with pytest.raises(StudyError, match='run question 1 as well'):
        run.work_off([Job('best-1-chart', 'swin', 0)], processes=2, shorter=1)


def test_a_detector_waits_for_its_pretraining(folders):
    job = Job('det-linear', 'swin', 0)
    assert not run.is_ready(job)
    weights = jobs.weights_of(job.pretraining)
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert run.is_ready(job)
    # the result of a pretraining whose weights are gone, and still needed
    finish(job.pretraining)
    weights.unlink()
    assert not run.is_done(job.pretraining, [job])
    finish(job)
    assert run.is_done(job.pretraining, [job])


@pytest.mark.slow
def test_the_scenes_of_the_detectors_are_made(fashion, folders, monkeypatch, capfd):
    done = []
    monkeypatch.setattr(run, 'work_off', lambda jobs, *_: done.append(len(jobs)))
    monkeypatch.setattr(sys, 'argv', ['run', '--questions', '1'])
    assert run.main() == 0
    assert not (folders / 'data').exists()
    (folders / 'data/garments').mkdir(parents=True)
    (folders / 'data/garments/another').touch()
    monkeypatch.setattr(sys, 'argv', ['run', '--questions', '6'])
    assert run.main() == 2  # what is there is not the tool's
    assert done == [100]
    assert 'scenes of question 6 could not be written' in capfd.readouterr().err
    (folders / 'data/garments/another').unlink()
    monkeypatch.setattr(run, 'SCENES', ('--train-images', '3', '--val-images', '2'))
    assert run.main() == 0
    assert (folders / 'data/garments/annotations/val.json').is_file()


def test_one_queue_at_a_time(folders):
    with run.alone(), pytest.raises(StudyError, match='another process'), run.alone():
        pass


#: ``python -m studies.one`` in a forked process.
ONE = """
import os, sys
sys.path.insert(0, {runs!r})
os.setsid()
{accident}
from studies.one import main
sys.exit(main())
"""
#: The process is killed when the second checkpoint is there and not named yet.
KILLED = "import launch; launch.die_writing('last_checkpoint', time=2)"


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_was(fashion, fork, tmp_path):
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    name = 'work_dirs/study/vit-SimpleK-seed1-shorter100'

    def one(folder, accident='', **kwargs):
        folder.mkdir(exist_ok=True)
        script = ONE.format(
            runs=str(ROOT.parent / 'tests/test_runs'), accident=accident
        )
        args = ('SimpleK', 'vit', '1', '--shorter', '100')
        env = dict(FASHION_MNIST=str(fashion), OMP_NUM_THREADS='1')
        return fork(folder, script, *args, **env, **kwargs)

    assert one(cut, KILLED, check=False).returncode == -signal.SIGKILL
    assert (cut / name / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    assert not list(cut.rglob('result.json'))  # no half file
    assert 'resumed epoch: 1' in one(cut).stdout
    one(whole)
    results = [json.loads((f / name / 'result.json').read_text()) for f in (whole, cut)]
    assert results[0]['metrics'] == results[1]['metrics']
    assert results[0]['curve'] == results[1]['curve']
    assert results[0]['curve'][-1][1] < results[0]['curve'][0][1]
