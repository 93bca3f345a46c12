r"""A manifold backbone without a linear key, started from a stock checkpoint.

This is not from the paper, which trains its keys from scratch. The linear key becomes
charts, exactly for VanillaK and KUA (:mod:`.exact`), by least squares for SimpleK and
SpatialK (:mod:`.fit`). All other weights are taken over as they are.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..backbones.structure import key_slots
from ..keys import KUA, ManifoldKey, SimpleK, SpatialK, VanillaK
from .exact import write_linear_map
from .fit import NormalEquations, randomize_charts, run_watched

EXACT, FITTED = (VanillaK, KUA), (SimpleK, SpatialK)


class BlockReport(NamedTuple):
    """How one attention layer was upgraded."""

    #: Name of the attention layer in the backbone.
    layer: str
    #: Name of the key's class.
    strategy: str
    #: Whether the key is the stock key up to rounding, rather than a fit.
    is_exact: bool
    #: ``|K - K_stock| / |K_stock|``, each centred over the attention's tokens.
    error: float


def residual_slots(backbone: nn.Module) -> dict[str, nn.Module]:
    """Layers with a residual key of ours, by name; others raise ValueError."""
    slots = key_slots(backbone)
    layers = {name: layer for name, layer in slots.items() if layer.key is not None}
    if not layers:
        raise ValueError('the backbone has no manifold key to upgrade to')
    for name, layer in layers.items():
        if not layer.key.residual:
            raise ValueError(
                f"{name} has no stock key; build with residual=True in the key's config"
            )
        if not isinstance(layer.key, (*EXACT, *FITTED)):
            known = ', '.join(kind.__name__ for kind in (*EXACT, *FITTED))
            raise ValueError(
                f'cannot upgrade to {type(layer.key).__name__}, only to {known}'
            )
    return layers


def needs_images(backbone: nn.Module) -> bool:
    """Whether a key of the backbone is fitted, rather than written exactly."""
    layers = residual_slots(backbone).values()
    return any(isinstance(layer.key, FITTED) for layer in layers)


def split_batches(
    images: Sequence[Tensor],
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Batches to fit on and, a quarter, to measure on; one batch serves for both."""
    if len(images) == 1:
        return images, images
    held_out = max(len(images) // 4, 1)
    return images[:-held_out], images[-held_out:]


@torch.no_grad()
def upgrade_backbone(
    stock: nn.Module,
    images: Sequence[Tensor] = (),
    seed: int = 0,
    track: Callable[[Sequence], Iterable] = iter,
) -> tuple[dict[str, Tensor], list[BlockReport]]:
    """Weights of a backbone with manifold keys that starts as the stock one.

    Fitted keys see the tokens of the stock network, and their error is measured on
    batches that were held out (see :func:`split_batches`); the error of exact keys is
    measured on random tokens.

    Args:
        stock (nn.Module): The backbone with residual keys and stock weights loaded. Its
            keys' last layers must be zero, as they are after construction, so that it
            is the stock network; they remain so.
        images (Sequence[Tensor]): Batches (B, 3, height, width), normalised. Needed for
            SimpleK and SpatialK. Defaults to none.
        seed (int): Of the charts. Torch's own generator is left as it was. Defaults to
            0.
        track (Callable): Wraps the batches in a progress bar. Defaults to none.

    Returns:
        tuple[dict[str, Tensor], list[BlockReport]]: State dict of the same backbone
        whose keys are not residual, and a report for every layer with a manifold key.

    Raises:
        ValueError: If a key cannot be upgraded to, is not residual or not zero, or
            needs images.
    """
    layers = residual_slots(stock)
    for name, layer in layers.items():
        if any(part.any() for part in getattr(layer.key, layer.key.last).parameters()):
            raise ValueError(
                f'{name}.key is not zero: of a residual key that was trained only the '
                f'linear key below it would be left'
            )
    fitted = {n: part for n, part in layers.items() if isinstance(part.key, FITTED)}
    if fitted and not images:
        raise ValueError(
            f'{type(next(iter(fitted.values())).key).__name__} is fitted by least '
            f'squares and needs images'
        )
    stock.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        upgraded = {
            name: exact_key(layer)
            for name, layer in layers.items()
            if name not in fitted
        }
        if fitted:
            upgraded |= fitted_keys(stock, fitted, images, track)

    weights = stock.state_dict()
    reports = []
    for name in layers:
        key, error = upgraded[name]
        for kind in ('weight', 'bias'):
            if (rows := weights.pop(f'{name}.qkv.{kind}', None)) is not None:
                query, _, value = rows.chunk(3)
                weights[f'{name}.qv.{kind}'] = torch.cat([query, value])
        for parameter, value in key.state_dict().items():
            weights[f'{name}.key.{parameter}'] = value
        is_exact = name not in fitted
        reports.append(BlockReport(name, type(key).__name__, is_exact, error))
    return weights, reports


def linear_key(layer: nn.Module) -> Tensor:
    """The key's rows of a stock ``qkv``, (C, C)."""
    return layer.qkv.weight.chunk(3)[1]


def exact_key(layer: nn.Module) -> tuple[ManifoldKey, float]:
    """The layer's linear key as exact charts, and the error on random tokens."""
    key, weight = copy.deepcopy(layer.key), linear_key(layer)
    write_linear_map(key, weight)
    tokens = torch.randn(4, 49, key.embed_dims).to(weight)
    actual, expected = (
        k - k.mean(dim=1, keepdim=True) for k in (key(tokens), tokens @ weight.t())
    )
    return key, float((actual - expected).norm() / expected.norm().clamp(min=1e-30))


def fitted_keys(
    stock: nn.Module,
    layers: dict[str, nn.Module],
    images: Sequence[Tensor],
    track: Callable[[Sequence], Iterable],
) -> dict[str, tuple[ManifoldKey, float]]:
    """Fit the keys of ``layers``; the charts of the stock backbone's keys change."""
    fit, held_out = split_batches(images)
    keys, tokens = {name: layer.key for name, layer in layers.items()}, {}
    run_watched(stock, keys, fit[:1], lambda name, args: tokens.update({name: args[0]}))
    for name, key in keys.items():
        randomize_charts(key, tokens[name])
    to_fit = record_equations(stock, layers, track(fit))
    to_measure = record_equations(stock, layers, track(held_out))

    result = {}
    for name in layers:
        key = copy.deepcopy(keys[name])
        key.out.weight.copy_(to_fit[name].solve())
        result[name] = key, to_measure[name].relative_error(key.out.weight)
    return result


def record_equations(
    stock: nn.Module, layers: dict[str, nn.Module], batches: Iterable[Tensor]
) -> dict[str, NormalEquations]:
    """Normal equations of every key on the batches."""
    keys = {name: layer.key for name, layer in layers.items()}
    equations = {
        name: NormalEquations(key.out.in_features, key.out.out_features)
        for name, key in keys.items()
    }

    def add(name: str, args: tuple) -> None:
        targets = args[0] @ linear_key(layers[name]).t()
        equations[name].add(keys[name].charts(*args).mean(dim=1), targets)

    run_watched(stock, keys, batches, add)
    return equations


@torch.no_grad()
def output_change(
    before: nn.Module, after: nn.Module, batches: Iterable[Tensor]
) -> float:
    """``|after - before| / |before|`` of the backbones' last output over batches."""
    difference = total = 0.0
    for batch in batches:
        old, new = before(batch)[-1].double(), after(batch)[-1].double()
        difference += float((new - old).square().sum())
        total += float(old.square().sum())
    return (difference / max(total, 1e-300)) ** 0.5
