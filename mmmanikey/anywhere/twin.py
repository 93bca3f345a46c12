"""A twin of a model, in which a change is tried before the model is changed."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..arguments import is_int, is_list

#: Attributes that are off in the copy: what is recomputed is hidden from the probe.
SWITCHES = {'training', 'with_cp', 'use_checkpoint', 'grad_checkpointing'}
SWITCHES |= {'gradient_checkpointing'}


class Twin:
    """A copy of a model, at rest and in single precision, and an input of it."""

    def __init__(self, model: nn.Module, example: object) -> None:
        try:
            self.model, self.dtype = copy.deepcopy(model), torch.float32
        except Exception as error:  # any, of any model
            raise ValueError(
                f'keys are tried in a copy of the model, and {type(model).__name__} '
                f'cannot be copied: {type(error).__name__}: {error}'
            ) from error
        for module in self.model.modules():
            vars(module).update(dict.fromkeys(SWITCHES & vars(module).keys(), False))
        example = image_shape(model) if example is None else example
        if is_list(example) and example and all(map(is_int, example)):
            example = torch.randn(*example).to(next(model.parameters()).device)
        if isinstance(example, Mapping):
            self.args, self.kwargs = [], dict(example)
        else:
            self.args, self.kwargs = [*example] if is_list(example) else [example], {}

    def __call__(self) -> list[Tensor]:
        """All tensors of floating point that the model returns."""
        args, kwargs = self.cast(self.args, True), self.cast(self.kwargs, True)
        try:
            model = self.model._apply(self.cast)  # .to() casts complex numbers as well
            device = next(model.parameters()).device.type
            with torch.random.fork_rng(), torch.autocast(device, enabled=False):
                torch.manual_seed(0)
                return tensors(model(*args, **kwargs))
        except Exception as error:  # any, of any model
            shapes = [tuple(getattr(x, 'shape', ())) for x in (*args, *kwargs.values())]
            raise ValueError(
                f'{type(self.model).__name__} does not run on the example {shapes}, '
                f'pass one by example=: {type(error).__name__}: {error}'
            ) from error

    def cast(self, x: object, fresh: bool = False) -> object:
        """All tensors in ``x``; fresh ones, where a model may change them."""
        if isinstance(x, Tensor):
            return x.to(self.dtype if x.is_floating_point() else x.dtype, copy=fresh)
        if type(x) in (list, tuple):
            return type(x)(self.cast(y, fresh) for y in x)
        return {n: self.cast(y, fresh) for n, y in x.items()} if type(x) is dict else x

    def check(self, keys: Mapping[str, nn.Module], before: list[Tensor]) -> None:
        """Raise ValueError if keys, by their layers' names, do not work.

        What starts at zero or nearly so, as Swin V2's norms behind the attention and
        the scales of layers, is made random before gradients are looked at.
        """
        if not before:
            raise ValueError('the model returns no tensors: take verify=False')
        with torch.no_grad():
            after = self()
        for old, new in zip(before, after):
            if not torch.allclose(old, new, 1e-5, 4e-6 * old.abs().max().item()):
                change = (old - new).abs().max()
                raise ValueError(f'keys of zero change the output by {change:.1e}')
        ours = {p: name for name, key in keys.items() for p in key.parameters()}
        for p in self.model.parameters():
            if p.is_floating_point() and p not in ours and not (p.abs() >= 1e-3).any():
                nn.init.uniform_(p)
        with torch.enable_grad():
            self.dtype = torch.float64  # gradients can be as small as single noise
            try:
                found = self()
            except ValueError:  # some models have constants of single precision
                self.dtype = torch.float32
                found = self()
            out = [(x * torch.randn_like(x)).sum() for x in found if x.requires_grad]
        gradients = torch.autograd.grad(out, list(ours), allow_unused=True)
        sizes = dict.fromkeys(keys, -1.0)
        least = 1e-12 if self.dtype == torch.float64 else 1e-7
        for name, gradient in zip(ours.values(), gradients):
            if gradient is not None:
                sizes[name] = max(sizes[name], gradient.abs().max().item())
        for name, size in sizes.items():
            if size < 0:
                raise ValueError(f'the key of {name} is never called by the model')
            if size <= least * max(sizes.values()):
                raise ValueError(
                    f'no gradient reaches the key of {name}: its attention changes '
                    'nothing that the model returns; where= can leave it out'
                )


def image_shape(model: nn.Module) -> tuple[int, ...]:
    """Shape of an image of the size that a model tells, or of 224 x 224."""
    modules = list(model.modules())
    names = ('img_size', 'image_size', 'init_input_size')  # the last is mmcv's
    sizes = [vars(m).get(name) for m in modules for name in names]
    size = next((x for x in sizes if is_int(x) or is_list(x)), 224)
    channels = next((m.in_channels for m in modules if isinstance(m, nn.Conv2d)), 3)
    return 1, channels, *(size[-2:] if is_list(size) else (size, size))


def tensors(out: object) -> list[Tensor]:
    """All tensors of floating point in what a model returned."""
    out = list(out.values()) if isinstance(out, Mapping) else out
    if is_list(out):
        return [x for item in out for x in tensors(item)]
    is_float = isinstance(out, Tensor) and out.is_floating_point()
    return [out] if is_float and out.numel() else []  # boxes of nothing, say
