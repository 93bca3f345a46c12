"""mmcv's compiled operators, as the set-up builds them: all there, and right on a CPU.

The references are torchvision's operators and loops in plain Python. mmcv computes some
operators on GPUs only (RoIPool, CARAFE, the focal loss), and others without compiled
code (CrissCrossAttention, on a CPU MultiScaleDeformableAttention): they are not here.
"""

import re
from itertools import product
from pathlib import Path

import mmcv
import pytest
import torch
import torchvision.ops
from mmcv import _ext, ops
from torch.testing import assert_close

SOURCES = Path(mmcv.__file__).parent / 'ops' / 'csrc' / 'pytorch'
THRESHOLD = 0.4


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def draw_boxes(count=60):
    corners = draw(count, 2) * 40
    return torch.cat([corners, corners + 2 + draw(count, 2, seed=1) * 20], 1)


def rotated(boxes, turns):
    """The same boxes as centre, size and angle; turned by quarters, sides swapped."""
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    angles = torch.full((len(boxes), 1), turns * torch.pi / 2)
    return torch.cat([centres, sizes.flip(1) if turns % 2 else sizes, angles], 1)


def quadrilaterals(boxes):
    x1, y1, x2, y2 = boxes.T
    return torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1)


BOXES, SCORES = draw_boxes(), draw(60, seed=2)
IOUS = torchvision.ops.box_iou(BOXES, BOXES)
KEPT = torchvision.ops.nms(BOXES, SCORES, THRESHOLD)


def assert_same_gradients(ours, reference, *inputs):
    """Equal results, and equal gradients of a weighted sum of them."""
    results = []
    for function in (ours, reference):
        leaves = [value.clone().requires_grad_() for value in inputs]
        result = function(*leaves)
        (result * draw(*result.shape, seed=9)).sum().backward()
        results.append([result.detach(), *(leaf.grad for leaf in leaves)])
    for a, b in zip(*results, strict=True):
        assert a.abs().sum() > 0
        assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_every_operator_is_there():
    """Those that mmcv's own source binds to Python."""
    bound = re.findall(r'\bm\.def\(\s*"(\w+)"', (SOURCES / 'pybind.cpp').read_text())
    assert len(set(bound)) > 100
    assert [name for name in bound if not hasattr(_ext, name)] == []


def test_every_operator_of_the_cpu_is_registered():
    """A file left out of the build would be noticed by its first call only."""
    library = Path(_ext.__file__).read_bytes()
    found = 0
    for file in (SOURCES / 'cpu').glob('*.cpp'):
        pattern = r'REGISTER_DEVICE_IMPL\(\s*(\w+),\s*CPU,\s*(\w+)\s*\)'
        for general, special in re.findall(pattern, file.read_text()):
            found += 1
            assert special.encode() in library, f'{general} in {file.name}'
    assert found > 20


def test_nms():
    kept = ops.nms(BOXES, SCORES, THRESHOLD)[1]
    assert torch.equal(kept, KEPT)
    assert 1 < len(kept) < len(BOXES)


@pytest.mark.parametrize('agnostic', [False, True])
def test_batched_nms(agnostic):
    groups = torch.arange(len(BOXES)) % 3
    config = dict(type='nms', iou_threshold=THRESHOLD, class_agnostic=agnostic)
    rows, kept = ops.batched_nms(BOXES, SCORES, groups, config)
    groups = torch.zeros_like(groups) if agnostic else groups
    wanted = torchvision.ops.batched_nms(BOXES, SCORES, groups, THRESHOLD)
    assert torch.equal(kept, wanted)
    assert_close(rows, torch.cat([BOXES, SCORES[:, None]], 1)[wanted])


def decay(method, iou):
    if method == 'gaussian':
        return torch.exp(-(iou**2) / 0.5)
    return torch.where(iou > THRESHOLD, 1 - iou if method == 'linear' else 0.0, 1.0)


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(method):
    rows, kept = ops.soft_nms(BOXES, SCORES, THRESHOLD, 0.5, 0.05, method)
    scores, wanted, values = SCORES.clone(), [], []
    while scores.max() >= 0.05:
        best = int(scores.argmax())
        wanted.append(best)
        values.append(scores[best].clone())
        scores *= decay(method, IOUS[best])
        scores[best] = -1
    assert kept.tolist() == wanted
    assert_close(rows[:, 4], torch.stack(values))


def test_nms_match():
    groups = ops.nms_match(torch.cat([BOXES, SCORES[:, None]], 1), THRESHOLD)
    assert [int(group[0]) for group in groups] == KEPT.tolist()
    left = set(range(len(BOXES)))
    for group in groups:
        near = {i for i in left if IOUS[int(group[0]), i] >= THRESHOLD}
        assert set(map(int, group)) == near
        left -= near


@pytest.mark.parametrize('turns', [0, 1, 2])
def test_rotated_and_quadrilateral_boxes(turns):
    turned, corners = rotated(BOXES, turns), quadrilaterals(BOXES)
    assert_close(ops.box_iou_rotated(turned, turned), IOUS, rtol=1e-3, atol=1e-4)
    assert_close(ops.box_iou_quadri(corners, corners), IOUS, rtol=1e-3, atol=1e-4)
    assert_close(ops.bbox_overlaps(BOXES, BOXES), IOUS)
    for kept in (
        ops.nms_rotated(turned, SCORES, THRESHOLD)[1],
        ops.nms_quadri(corners, SCORES, THRESHOLD)[1],
    ):
        assert torch.equal(kept, KEPT)


MAPS = draw(2, 4, 24, 28, seed=4)
ROIS = torch.cat([torch.arange(60)[:, None] % 2, BOXES], 1)


@pytest.mark.parametrize('samples', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align(aligned, samples):
    ours = ops.RoIAlign((5, 7), 0.5, samples, aligned=aligned)
    assert_same_gradients(
        lambda maps: ours(maps, ROIS),
        lambda maps: torchvision.ops.roi_align(
            maps, ROIS, (5, 7), 0.5, samples or -1, aligned
        ),
        MAPS,
    )


def test_roi_align_rotated():
    rois = torch.cat([ROIS[:, :1], rotated(BOXES, 0)], 1)
    ours = ops.RoIAlignRotated((5, 7), 0.5, 2, aligned=True)
    assert_same_gradients(
        lambda maps: ours(maps, rois),
        lambda maps: torchvision.ops.roi_align(maps, ROIS, (5, 7), 0.5, 2, True),
        MAPS,
    )


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('groups', [1, 2])
def test_deformable_convolutions(stride, masked, groups):
    height, width = -(-24 // stride), -(-28 // stride)
    offsets = 4 * draw(2, 18, height, width, seed=5) - 2
    weight = draw(6, 4 // groups, 3, 3, seed=6)
    mask = draw(2, 9, height, width, seed=7)
    bias = draw(6, seed=8)
    if masked:
        assert_same_gradients(
            lambda x, o, m, w, b: ops.modulated_deform_conv2d(
                x, o, m, w, b, stride, 1, 1, groups, 1
            ),
            lambda x, o, m, w, b: torchvision.ops.deform_conv2d(
                x, o, w, b, stride, 1, 1, m
            ),
            *(MAPS, offsets, mask, weight, bias),
        )
    else:
        assert_same_gradients(
            lambda x, o, w: ops.deform_conv2d(x, o, w, stride, 1, 1, groups, 1),
            lambda x, o, w: torchvision.ops.deform_conv2d(x, o, w, None, stride, 1, 1),
            *(MAPS, offsets, weight),
        )


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
def test_psa_mask(kind):
    """Each position's mask, laid out over the whole map around that position."""
    height, width, rows, columns = 6, 7, 5, 3

    def reference(masks):
        full = masks.new_zeros(2, height * width, height, width)
        places = product(range(height), range(width), range(rows), range(columns))
        for h, w, row, column in places:
            y, x = h + row - rows // 2, w + column - columns // 2
            if 0 <= y < height and 0 <= x < width:
                value = masks[:, row * columns + column, h, w]
                if kind == 'collect':
                    full[:, y * width + x, h, w] = value
                else:
                    full[:, h * width + w, y, x] = value
        return full

    masks = draw(2, rows * columns, height, width)
    assert_same_gradients(ops.PSAMask(kind, (rows, columns)), reference, masks)
