"""The digits generator: what it draws, how it writes, when it does nothing."""

import hashlib
import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

FOLDER = Path(__file__).resolve().parents[2] / 'tools/data'
SMALL = dict(train_images=12, val_images=5, train_crops=30, val_crops=20)


@pytest.fixture(scope='module')
def generator():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module('make_digits')
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope='module')
def scenes(generator):
    return importlib.import_module('digit_scenes')


@pytest.fixture(scope='module')
def digits(generator, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'digits'
    assert generator.make(out, generator.Settings(**SMALL))
    return out


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_split_is_disjoint_complete_and_stratified(generator):
    labels = np.random.default_rng(1).integers(0, 10, 500)
    split = generator.split_sources(labels, seed=3)
    assert sorted([*split['train'], *split['val']]) == list(range(500))
    for label in range(10):
        count = (labels == label).sum()
        assert (labels[split['val']] == label).sum() == count // 5
    other = generator.split_sources(labels, seed=4)
    assert not np.array_equal(split['val'], other['val'])


def test_all_sets_draw_on_the_same_split(generator, monkeypatch, tmp_path):
    used = {}

    def record(root, split, count, digits, seed):
        used[root.name, split] = set(digits[2].tolist())
        yield

    for name in ('detection', 'classification', 'semantic'):
        monkeypatch.setattr(generator, f'write_{name}', record)
    list(generator.write_all(tmp_path, generator.Settings()))
    train, val = used['detection', 'train'], used['detection', 'val']
    for name in ('classification', 'semantic'):
        assert (used[name, 'train'], used[name, 'val']) == (train, val)
    assert not train & val
    assert len(train | val) == 1797


def test_same_seed_same_bytes(generator, digits, tmp_path):
    generator.make(tmp_path / 'again', generator.Settings(**SMALL))
    assert hashes(tmp_path / 'again') == hashes(digits)
    generator.make(tmp_path / 'other', generator.Settings(**SMALL, seed=1))
    assert hashes(tmp_path / 'other') != hashes(digits)


def test_coco_reads_the_annotations(digits):
    for split, count in (('train', 12), ('val', 5)):
        coco = COCO(digits / f'detection/annotations/{split}.json')
        assert len(coco.imgs) == count
        assert [cat['name'] for cat in coco.cats.values()] == list('0123456789')
        for image_id in coco.imgs:
            anns = coco.imgToAnns[image_id]
            assert 1 <= len(anns) <= 4
            masks = np.stack([coco.annToMask(ann) for ann in anns])
            assert masks.sum(0).max() == 1  # in front means not behind
            for ann, mask in zip(anns, masks):
                assert ann['area'] == mask.sum() > 0
                box = rle.toBbox(rle.encode(np.asfortranarray(mask)))
                assert ann['bbox'] == box.tolist()


def test_digits_are_24_to_60_pixels(scenes):
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(0)
    for source in load_digits().images[::90]:
        size = int(rng.integers(scenes.GLYPH_SIZES[0], scenes.GLYPH_SIZES[1] + 1))
        ink = scenes.glyph(source, size, rng.uniform(-8, 8))[0] >= 0.5
        rows, columns = np.nonzero(ink)
        assert 24 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 60


def test_masks_are_what_is_seen(scenes):
    """The image differs from its clutter in the masks and their soft rim only."""
    from sklearn.datasets import load_digits

    sources = list(load_digits().images[:4])
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image, masks = scenes.draw_scene(sources, 128, rng)
        background = scenes.clutter(128, np.random.default_rng(seed))
        changed = np.abs(image - background).max(-1) > 0.5
        union = np.any(list(masks.values()), axis=0)
        assert changed[union].mean() > 0.97
        rim = cv2.dilate(union.astype(np.uint8), np.ones((13, 13))).astype(bool)
        assert not changed[~rim].any()


def test_boxes_hardly_overlap_and_who_is_in_front_hides(scenes, monkeypatch):
    """Crowd the image until boxes overlap; compare with what each would show alone."""
    from sklearn.datasets import load_digits

    sources = list(load_digits().images[:4])
    whole = []
    paint = scenes.paint
    monkeypatch.setattr(
        scenes, 'paint', lambda *args: whole.append(paint(*args)) or whole[-1]
    )
    touching = 0
    for seed in range(40):
        whole.clear()
        _, visible = scenes.draw_scene(sources, 128, np.random.default_rng(seed))
        for number, (full, seen) in enumerate(zip(whole, visible.values())):
            in_front = np.any([np.zeros_like(full), *whole[number + 1 :]], axis=0)
            assert np.array_equal(seen, full & ~in_front)
            for other in whole[:number]:
                share = scenes.overlap(full, other)
                assert share <= 2 * scenes.MAX_OVERLAP  # a covered one's box shrinks
                touching += share > 0
    assert touching > 0


def test_overlap_by_hand(scenes):
    one, two = np.zeros((2, 10, 10), bool)
    one[0:4, 0:4] = True
    two[3:9, 2:8] = True
    assert scenes.overlap(one, two) == pytest.approx(2 / 16)
    assert scenes.overlap(one, np.roll(one, 5, axis=0)) == 0


def test_sheets_label_the_pixels_of_at_most_one_digit_per_cell(digits):
    """0 is background, a digit's class + 1 is where the light ink is."""
    found = []
    for split, count in (('train', 12), ('val', 5)):
        names = [
            path.name for path in sorted((digits / 'semantic/images' / split).iterdir())
        ]
        assert names == [f'{number:06d}.png' for number in range(1, count + 1)]
        for name in names:
            image, labels = (
                cv2.imread(str(digits / 'semantic' / kind / split / name), -1)
                for kind in ('images', 'labels')
            )
            assert (image.shape, labels.shape) == ((128, 128, 3), (128, 128))
            for top, left in np.ndindex(2, 2):
                cell = np.s_[64 * top : 64 * top + 64, 64 * left : 64 * left + 64]
                present = set(np.unique(labels[cell])) - {0}
                assert len(present) <= 1
                found.append(present)
                if present:
                    ink = labels[cell] > 0
                    brightness = image[cell].max(axis=2)
                    assert brightness[ink].mean() > brightness[~ink].mean() + 50
    assert set() in found
    assert len(set().union(*found)) > 7


def test_a_single_digit_fits_and_is_off_centre_a_little(scenes, monkeypatch):
    from sklearn.datasets import load_digits

    paint, masks = scenes.paint, []
    monkeypatch.setattr(
        scenes, 'paint', lambda *args: masks.append(paint(*args)) or masks[-1]
    )
    for seed, source in enumerate(load_digits().images[:40]):
        image, mask = scenes.draw_single(source, 64, np.random.default_rng(seed))
        assert np.array_equal(mask, masks[-1])
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
    centres = np.array([np.argwhere(mask).mean(0) for mask in masks]) - 31.5
    assert centres.std(0).min() > 1
    assert np.abs(centres).max() < 15


@pytest.mark.parametrize('first', [0, 1])
def test_run_lengths_decode_to_the_mask(generator, first):
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    mask[0, 0] = first
    code = generator.encode_mask(mask)
    decoded = rle.decode(rle.frPyObjects(code, *code['size']))
    assert np.array_equal(decoded, mask)


def test_classification_folders(digits):
    for split, count in (('train', 30), ('val', 20)):
        folder = digits / 'classification' / split
        assert sorted(path.name for path in folder.iterdir()) == list('0123456789')
        assert len(list(folder.rglob('*.png'))) == count


def run(out, *args):
    command = [sys.executable, FOLDER / 'make_digits.py', '--out', out]
    for name, value in SMALL.items():
        command += [f'--{name.replace("_", "-")}', str(value)]
    return subprocess.run([*command, *args], capture_output=True, text=True)


def test_second_run_does_nothing_and_other_settings_make_anew(digits):
    before = hashes(digits)
    stamp = (digits / 'digits.json').stat().st_mtime_ns
    again = run(digits)
    assert again.returncode == 0
    assert 'nothing to do' in again.stdout
    assert (digits / 'digits.json').stat().st_mtime_ns == stamp
    changed = run(digits, '--seed', '7')
    assert changed.returncode == 0
    assert hashes(digits) != before
    assert json.loads((digits / 'digits.json').read_text())['seed'] == 7
    run(digits)
    assert hashes(digits) == before
    assert [path.name for path in digits.parent.iterdir()] == ['digits']


def test_older_version_is_made_anew(generator, digits):
    stamp = digits / 'digits.json'
    settings = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**settings, 'version': -1}))
    assert generator.make(digits, generator.Settings(**SMALL))
    assert json.loads(stamp.read_text()) == settings


def test_interruption_leaves_nothing(tmp_path):
    command = [sys.executable, FOLDER / 'make_digits.py', '--out', tmp_path / 'digits']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(tmp_path.glob('.digits-*/new/detection/train/*.png')):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('keep')
    result = run(tmp_path)
    assert result.returncode == 1
    assert result.stderr.count('\n') == 1
    assert 'holds other files' in result.stderr
    assert (tmp_path / 'mine.txt').read_text() == 'keep'


def test_bad_number_is_one_sentence(tmp_path):
    result = run(tmp_path / 'digits', '--val-images', '0')
    assert result.returncode == 1
    assert result.stderr.strip() == (
        'make_digits: val_images must be at least 1, got 0'
    )
