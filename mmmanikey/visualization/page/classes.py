"""Where a classifier of mmpretrain looks for the class that it names."""

from collections.abc import Sequence

import numpy as np
from mmengine.config import Config
from torch import Tensor

from ...arguments import type_name
from ...backbones.structure import slot_of
from ...checkpoint import CheckpointError
from ..inputs import Model
from ..layers import Layer
from ..rollout import Step, record_steps
from .objects import class_names, label_name, load_whole
from .rows import attention_sizes


def is_classifier(cfg: Config) -> bool:
    """Whether a config is of a classifier with a head."""
    return type_name(cfg.model) == 'ImageClassifier' and bool(cfg.model.get('head'))


def class_steps(
    model: Model,
    cfg: Config,
    checkpoint: str,
    image: np.ndarray,
    layers: Sequence[Layer],
) -> tuple[list[Step] | None, str]:
    """Rollout weighted by the gradients of the largest score.

    Args:
        model (Model): The backbone.
        cfg (Config): Its config.
        checkpoint (str): Its file.
        image (np.ndarray): (H, W, 3), RGB bytes.
        layers (Sequence[Layer]): All layers on the image.

    Returns:
        tuple: The steps and what weights them; or ``None`` and why not, empty where
        there is nothing to say.
    """
    heads = [slot_of(layer.module).num_heads for layer in layers]
    sizes = [attention_sizes(layer.windows, n)[0] for layer, n in zip(layers, heads)]
    if not is_classifier(cfg) or not all(sizes):
        return None, ''
    try:
        classifier = load_whole(cfg, checkpoint, model.backbone)
    except CheckpointError as error:  # of a backbone alone
        return None, f'No rollout weighted by gradients: {error}.'
    found = []

    def largest(scores: Tensor) -> Tensor:
        found.append(int(scores[0].argmax()))
        return scores[0, found[-1]]

    steps = record_steps(classifier, model.input(image), largest)
    name = label_name(class_names(None, checkpoint), found[0])
    return steps, f'weighted by the gradients of class {name}, the most likely one'
