"""The part of a checkpoint to publish: plain tensors, and plain values about them."""

from collections import OrderedDict
from collections.abc import Mapping

import mmengine
import numpy as np
import torch

from ..version import __version__
from .entries import weights_in
from .files import CheckpointError

#: What is kept of a checkpoint's meta, where it is there.
KEPT_META = ('cfg', 'dataset_meta', 'epoch', 'iter', 'mmengine_version')


def publishable(content: object, checkpoint: str, cfg: str | None = None) -> dict:
    """The part of a checkpoint that others need.

    Only the weights that inference uses are kept: with mmengine's ``EMAHook`` those
    under ``state_dict`` are the averaged ones, and ``ema_state_dict`` the others.

    Args:
        content (object): From :func:`mmmanikey.checkpoint.read_checkpoint`.
        checkpoint (str): Its name, for errors.
        cfg (str, optional): Text of the config, in place of the checkpoint's own.

    Returns:
        dict: ``meta`` of plain values and ``state_dict`` of plain tensors. The same
        checkpoint gives the same bytes when saved.

    Raises:
        CheckpointError: If there are no weights, or some are not finite.
    """
    weights = weights_in(content, checkpoint)
    state_dict = OrderedDict()
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f'{checkpoint} holds values in {name} that are not finite'
            )
        # a copy: a view would bring along all of its storage
        state_dict[name] = value.detach().clone(memory_format=torch.contiguous_format)
    if hasattr(weights, '_metadata'):
        state_dict._metadata = plain(weights._metadata)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    kept = {name: plain(meta[name]) for name in KEPT_META if name in meta}
    if cfg is not None:
        kept['cfg'] = cfg
    kept['published_with'] = dict(
        mmmanikey=__version__,
        mmengine=mmengine.__version__,
        torch=torch.__version__.split('+')[0],
    )
    return dict(meta=kept, state_dict=state_dict)


def plain(value: object) -> object:
    """``value`` in Python's own types; what has none becomes text."""
    if isinstance(value, Mapping):
        return {plain(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
