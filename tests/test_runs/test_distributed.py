"""Two and four processes give the answer of one: gradients, metrics, and FSDP.

The cases are in ``ranks.py`` and ``sharded.py``; all processes run them at once.
"""

import pytest
import ranks

#: Relative to the largest gradient of the model.
GRADIENT = 1e-5

# One worker for all: they share the processes that the fixture starts.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('distributed')]


@pytest.fixture(scope='module')
def found_by_two(tmp_path_factory):
    return ranks.launch(2, tmp_path_factory.mktemp('two'))


@pytest.fixture(scope='module')
def found_by_four(tmp_path_factory):
    return ranks.launch(4, tmp_path_factory.mktemp('four'))


@pytest.fixture(params=['two', 'four'])
def found(request):
    """What each rank found."""
    return request.getfixturevalue(f'found_by_{request.param}')


@pytest.fixture
def sharded(found_by_two):
    return [rank['sharded'] for rank in found_by_two]


@pytest.mark.parametrize('key', ranks.KEYS)
@pytest.mark.parametrize('family', ranks.FAMILIES)
def test_gradients_are_those_of_one_process(found, family, key):
    """Frozen from nothing to everything, recomputed or not, with an uneven batch."""
    for rank in found:
        assert rank['gradients'][family, key] <= GRADIENT


def test_metrics_are_those_of_one_process(found):
    for plain, gathered in (rank['metrics'] for rank in found):
        assert 0 < plain < 100
        assert gathered == pytest.approx(plain)


def test_one_process_looks_for_the_images(found):
    for rank, (whole, missing, _) in enumerate(r['checks'] for r in found):
        assert whole == (0 if rank else 10, None)
        assert missing[0] == (0 if rank else 10)
        told = "UsageError: 'missing.png', which 'images.json' names, does not exist"
        assert missing[1].startswith(told)


def test_no_process_waits_for_one_that_failed(found):
    for rank, told in enumerate(r['checks'][2][1] for r in found):
        kind = 'OSError' if rank == 1 else 'UsageError'
        assert told.startswith(f'{kind}: no such device')


@pytest.mark.parametrize('all_ranks', [False, True], ids=['one rank', 'all ranks'])
def test_images_without_objects_train(found, all_ranks):
    results = [rank['background'][all_ranks] for rank in found]
    for result in results:
        assert result['missing'] == 0
        assert all(0 < loss < 100 for loss in result['losses'])
        assert result['norm'] == pytest.approx(results[0]['norm'], rel=1e-9)
    assert results[0]['norm'] > 0


@pytest.fixture(params=['swin', 'vit'])
def trained(request, sharded):
    """What each rank found of a family."""
    return [rank['families'][request.param] for rank in sharded]


def test_fsdp_wraps_every_block(trained):
    for rank in trained:
        blocks = [name for name in rank['units'] if name != 'ImageClassifier']
        assert blocks in (['ManifoldKeyBlock'] * 2, ['ManifoldKeyLayer'] * 2)


def test_fsdp_trains_as_ddp(trained):
    for rank in trained:
        assert rank['share'] < 0.6
        assert rank['ddp'] <= 1e-5 < 1e-2 < rank['learned']


def test_fsdp_resumes(trained):
    for rank in trained:
        assert rank['resumed'] <= 1e-6


def test_fsdp_checkpoint_is_that_of_a_plain_model(trained):
    for rank in trained:
        assert rank['output'] <= 1e-5


def test_fsdp_keeps_rates_and_decay_of_parameters(sharded):
    """A part of a weight has one dimension, and its name that of a unit."""
    for rank in (rank['interrupted'] for rank in sharded):
        assert {decay for _, decay in rank['expected_settings'].values()} == {
            0.0,
            0.005,
            0.01,
        }
        assert rank['settings'] == rank['expected_settings']


@pytest.mark.parametrize('layout', ['full', 'local', 'sharded'])
def test_fsdp_resumes_from_files_and_folders(sharded, layout):
    """The last whole one; older ones are gone, and nothing half-written is left."""
    for rank in (rank['interrupted'][layout] for rank in sharded):
        assert rank['last'] == f'{layout}/epoch_1.pth'
        parts = [] if layout == 'full' else ['rank0.pth', 'rank1.pth']
        assert rank['left'] == ['epoch_2.pth', *(f'epoch_2.pth/{p}' for p in parts)]
        assert rank['weights'] <= 1e-6


@pytest.mark.parametrize('layout', ['full', 'local', 'sharded'])
def test_fsdp_resumes_what_the_wrapper_of_the_optimiser_keeps(sharded, layout):
    """The loss scale, the iterations that it has stood, and the base learning rate."""
    for rank in sharded:
        whole, resumed = rank['interrupted'][layout]['wrappers']
        assert whole['loss_scaler']['scale'] == 16
        assert whole['loss_scaler']['_growth_tracker'] == 1
        assert whole['base_param_settings'] == 0.025
        assert whole == resumed


@pytest.mark.parametrize(
    ('layout', 'told'),
    [
        ('full', 'is a folder of sharded state dicts'),
        ('local', '2 processes, rank0.pth to rank1.pth, and has 3'),
        ('sharded', '2 processes, rank0.pth to rank1.pth, and has 3'),
    ],
)
def test_fsdp_refuses_checkpoints_of_another_kind(sharded, layout, told):
    for rank in sharded:
        assert told in rank['interrupted'][layout]['refused']
