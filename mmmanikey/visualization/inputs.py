"""From a config, a checkpoint and image files to a backbone and its input.

mmdet, mmpretrain and mmseg configs alike: the backbone stands at ``model.backbone``,
the normalisation in a ``data_preprocessor``.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ..checkpoint import PretrainedBackbone
from ..engine.build import build_from
from ..engine.cli import UsageError, check_checkpoint, in_one_line, read_config
from .layers import layer_numbers

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff')


class Model(NamedTuple):
    """A backbone with what its input needs.

    Args:
        name (str): What to call it.
        backbone (nn.Module): In eval mode.
        preprocessor (dict): Config of the data preprocessor.
    """

    name: str
    backbone: nn.Module
    preprocessor: dict

    def input(self, image: np.ndarray) -> Tensor:
        """An image (H, W, 3), RGB bytes, normalised and padded, (1, C, H', W').

        For a backbone of one channel it is made grey. It is padded with zeros at the
        right and bottom to whole patches and to the config's ``pad_size_divisor``, as
        the frameworks pad a batch.
        """
        cfg, patches = self.preprocessor, self.backbone.patch_embed.projection
        if patches.in_channels == 1:
            image = mmcv.rgb2gray(image, keepdim=True)
        if not (cfg.get('to_rgb') or cfg.get('bgr_to_rgb')):
            image = image[..., ::-1]
        x = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)
        if cfg.get('mean') is not None:
            mean, std = (torch.tensor(cfg[n])[:, None, None] for n in ('mean', 'std'))
            x = (x - mean) / std
        divisor = cfg.get('pad_size_divisor') or 1
        below, right = (
            -side % math.lcm(step, divisor)
            for side, step in zip(x.shape[1:], patches.stride)
        )
        return F.pad(x, (0, right, 0, below))[None]


def load_model(
    config: str, checkpoint: str | None = None, name: str | None = None
) -> Model:
    """Build the backbone of a config and load its weights.

    Args:
        config (str): Config file.
        checkpoint (str, optional): Of the whole model or the backbone; ``None`` keeps
            the random start, and the name says so. Defaults to None.
        name (str, optional): Defaults to the config's name.

    Raises:
        UsageError: If the config cannot be used, or its backbone has no attention.
        CheckpointError: If the checkpoint does not fit.
    """
    cfg = read_config(config)
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    backbone = build_from(cfg)
    try:
        layer_numbers(backbone)  # before any checkpoint is held against it
    except ValueError as error:
        raise UsageError(f'{config!r}: {error}') from error
    name = name or Path(config).stem
    if checkpoint is None:
        name += ' (random weights)'
    else:
        PretrainedBackbone(checkpoint).load(backbone)
    backbone.eval()
    return Model(name, backbone, preprocessor_of(cfg))


@contextmanager
def running(model: Model) -> Iterator[None]:
    """Tell what a network, of any project, does not take.

    Raises:
        UsageError: In place of an error.
    """
    try:
        yield
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UsageError(f'{model.name}: {in_one_line(error)}') from error


def preprocessor_of(cfg: Config) -> dict:
    """The data preprocessor, which mmpretrain's configs may keep at the top."""
    own = cfg.model.get('data_preprocessor')
    return dict(own or cfg.get('data_preprocessor') or {})


def find_images(path: str) -> list[Path]:
    """The file itself, or the images directly in a folder, by name.

    Raises:
        UsageError: If there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UsageError(
                f'{str(path)!r} holds no image ({", ".join(IMAGE_SUFFIXES)})'
            )
        return found
    if not path.is_file():
        raise UsageError(f'image {str(path)!r} does not exist')
    return [path]


def read_image(path: Path, size: int | None = None) -> np.ndarray:
    """Read an image as RGB bytes (H, W, 3).

    Args:
        path (Path): The file.
        size (int, optional): Resize the shorter side to so many pixels. Defaults to
            None, as it is.

    Raises:
        UsageError: If it is no image.
    """
    try:
        image = mmcv.imread(path)[..., ::-1]  # BGR
    except Exception as error:  # mmcv and OpenCV fail in many ways, one returns None
        raise UsageError(f'{str(path)!r} is no image, or a damaged one') from error
    if size is not None:
        factor = size / min(image.shape[:2])
        target = [max(size, round(side * factor)) for side in image.shape[1::-1]]
        image = mmcv.imresize(image, tuple(target))
    return image
