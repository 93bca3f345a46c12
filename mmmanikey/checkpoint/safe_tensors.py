"""Checkpoints as .safetensors, the format of timm's and Hugging Face's hubs.

https://huggingface.co/docs/safetensors: tensors by name, and one table of texts beside
them. What else a checkpoint holds becomes a JSON text there, and so do the metadata of
its state dict (https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html,
``state_dict``). One entry for both: the library writes several in changing order, and
the same checkpoint would not give the same file.
"""

import json
import os
import re
from collections import OrderedDict
from collections.abc import Mapping

import torch
from safetensors import safe_open
from safetensors.torch import save

#: Paths and URLs, also as patterns of mmengine's loaders: those for ``https://`` would
#: come before one pattern for both.
PATTERNS = (r'https?://[^?#]*\.safetensors([?#]|$)', r'(?!.*://).*\.safetensors$')
#: Name of the entry that holds the JSON text.
ENTRY = 'checkpoint'


def is_safetensors(checkpoint: str | os.PathLike) -> bool:
    """Whether a path or URL names a file of this format, by its ending."""
    return any(re.match(pattern, str(checkpoint)) for pattern in PATTERNS)


def read_safetensors(path: str | os.PathLike) -> dict:
    """Read a file onto the CPU: what :func:`to_safetensors` was given, or a state dict.

    Raises SafetensorError if it is damaged.
    """
    with safe_open(path, framework='pt') as file:
        names = file.keys()
        weights = OrderedDict((name, file.get_tensor(name)) for name in names)
        text = (file.metadata() or {}).get(ENTRY)
    if text is None:
        return weights
    others, metadata = json.loads(text)
    if metadata:
        weights._metadata = metadata
    return dict(others, state_dict=weights)


def to_safetensors(content: Mapping) -> bytes:
    """The file of a state dict, or of a checkpoint with one under ``state_dict``.

    Raises ValueError if the format does not know a kind of tensor, TypeError if another
    entry cannot be written as JSON.
    """
    others = dict(content) if 'state_dict' in content else dict(state_dict=content)
    weights = others.pop('state_dict')
    metadata = getattr(weights, '_metadata', None)
    text = json.dumps([others, metadata]) if others or metadata else None
    # copies: the format has neither views nor shared storages
    try:
        tensors = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in weights.items()
        }
        return save(tensors, text and {ENTRY: text})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f'.safetensors has no place for a tensor: {error}') from error
