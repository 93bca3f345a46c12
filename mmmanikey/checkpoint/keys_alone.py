"""Inserted keys without their model: trained, saved and loaded alone."""

import os
from collections import OrderedDict
from collections.abc import Mapping

from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..attention.keyed import keyed_layers
from .entries import COMPILED, weights_in
from .files import CheckpointError, read_checkpoint


def key_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the inserted keys, to freeze or to train with a rate of theirs.

    Args:
        model (nn.Module): A model with keys of ``insert_keys``, wrapped or not.
    """
    return [p for layer in keyed_layers(model).values() for p in layer.key.parameters()]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without what distributes or compiles it."""
    while (wraps := is_model_wrapper(model)) or hasattr(model, COMPILED):
        model = model.module if wraps else getattr(model, COMPILED)
    return model


def key_state_dict(model: nn.Module) -> OrderedDict[str, Tensor]:
    """That part of the model's state dict which is the inserted keys'.

    Args:
        model (nn.Module): A model with keys of ``insert_keys``, wrapped or not: its
            names are those without a wrapper.
    """
    found = OrderedDict()
    found._metadata = OrderedDict()  # the windows of keys over tokens are told there
    for name, layer in keyed_layers(unwrapped(model)).items():
        layer.key.state_dict(destination=found, prefix=f'{name}.key.'.lstrip('.'))
    return found


def load_keys(model: nn.Module, source: Mapping | str | os.PathLike) -> None:
    """Load keys alone.

    Args:
        model (nn.Module): A model in which keys of the same config were inserted,
            wrapped or not. Changed in place.
        source (Mapping | str | os.PathLike): What :func:`key_state_dict` gave, or a
            file of it.

    Raises:
        CheckpointError: If these are the keys of another model, which is then as it
            was, or the file cannot be read.
        FileNotFoundError: If there is no such file.
    """
    model = unwrapped(model)
    is_file = not isinstance(source, Mapping)
    new = weights_in(read_checkpoint(source), str(source)) if is_file else source
    own = key_state_dict(model)
    for name in {**own, **new}:
        given, wanted = (
            tuple(of[name].shape) if name in of else 'nothing' for of in (new, own)
        )
        if given != wanted:
            raise CheckpointError(
                f'these keys are not of this {type(model).__name__} with the keys that '
                f'it has: {name} is {given}, and here {wanted}'
            )
    model.load_state_dict(new, strict=False)
