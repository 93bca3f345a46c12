"""mmpretrain's installed scripts on our configs and checkpoints."""

import cv2
import numpy as np
import pytest
import scripts
import torch
from mmpretrain import get_model
from pytorch_grad_cam.utils.image import scale_cam_image, show_cam_on_image

# One worker for all that share a training.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('ecosystem')]


def test_train(classifier, same_training):
    log = same_training(classifier)
    assert 'loss' in log[0]
    assert 'accuracy/top1' in log[-1]


def test_test(classifier, same_test):
    logged = scripts.training_log(classifier.trained)[-1]
    metrics = same_test(classifier)
    assert metrics == {'accuracy/top1': logged['accuracy/top1']}


def test_vis_cam(classifier, run, digits):
    """Grad-CAM of the last norm, whose mean over the map a linear layer classifies.

    There it is the map itself weighted by the weights of the predicted class.
    """
    image = next((digits / 'data/digits/classification/val').rglob('*.png'))
    run(
        'mmpretrain',
        scripts.installed('mmpretrain', 'visualization/vis_cam.py'),
        *(image, classifier.config, classifier.checkpoint),
        *('--vit-like', '--save-path=cam.png'),
    )
    model = get_model(str(classifier.config), str(classifier.checkpoint), device='cpu')
    plain = cv2.imread(str(image))
    batch = dict(inputs=torch.from_numpy(plain).permute(2, 0, 1)[None])
    with torch.no_grad():
        (maps,) = model.backbone(model.data_preprocessor(batch)['inputs'])
        label = model.head.fc(maps.mean(dim=(2, 3))).argmax()
        cam = torch.einsum('c,bchw->bhw', model.head.fc.weight[label], maps).relu()
    assert cam.max() > 0
    (cam,) = scale_cam_image(cam.numpy(), plain.shape[1::-1])
    expected = show_cam_on_image(np.float32(plain) / 255, cam, use_rgb=False)
    difference = cv2.imread(str(digits / 'cam.png')).astype(int) - expected
    assert abs(difference).max() <= 1
