"""From configs, checkpoints and an image to the page, one file that needs no other."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...backbones.structure import attention_layers, slot_of, stride_of
from ...engine.cli import read_config
from ..attention import softmax_weights
from ..inputs import Model, load_model, running
from ..layers import Layer, layer_numbers, record_layers
from ..output import write_text
from ..rollout import Step, attention_steps
from .classes import class_steps
from .document import TABLES, assemble, colour_table, data_url
from .keys import packed_charts, packed_colours
from .objects import objects_of
from .packing import LIMIT, Variant, choose
from .rows import (
    attention_sizes,
    packed_attention,
    packed_rollout,
    packed_windows,
)

NOTES = 4_000  # bytes kept for what the page says is left out

Progress = Callable[[str], None]


class Source(NamedTuple):
    """A model on the command line.

    Args:
        config (str): Config file.
        checkpoint (str): Of the whole model or the backbone.
    """

    config: str
    checkpoint: str


class Piece(NamedTuple):
    """A layer of a model, in the ways in which it may be on the page.

    Args:
        model (int): Number of the model.
        name (str): What to call it where something of it is left out.
        variants (list[Variant]): The richest first.
    """

    model: int
    name: str
    variants: list[Variant]


def write_page(
    sources: Sequence[Source],
    path: Path,
    image: np.ndarray,
    out: Path,
    numbers: Sequence[int] | None = None,
    progress: Progress = lambda text: None,
) -> list[str]:
    """Write the page.

    Args:
        sources (Sequence[Source]): One or two models, the first the one to compare to.
        path (Path): Where the image is from.
        image (np.ndarray): (H, W, 3), RGB bytes, as the models see it.
        out (Path): The file to write.
        numbers (Sequence[int], optional): Of the layers. Defaults to None, all.
        progress (Callable[[str], None], optional): Told what is being done. Defaults
            to none.

    Returns:
        list[str]: What the page says is left out or differs.

    Raises:
        UsageError: If a config or an image cannot be used, or a backbone has no
            attention or no such layer.
        CheckpointError: If a checkpoint does not fit.
    """
    models, notes = [], []
    for source in sources:
        progress(f'loading {source.config}')
        models.append(load_model(source.config, source.checkpoint))
    recorded, wanted = zip(*(record(model, image, numbers) for model in models))
    names = names_of(models, sources)
    entries, weighted = [], []
    for model, source, name, layers in zip(models, sources, names, recorded):
        progress(f'{name}: what it finds')
        cfg = read_config(source.config)
        objects, note = objects_of(model, cfg, source.checkpoint, path, image)
        steps, about = class_steps(model, cfg, source.checkpoint, image, layers)
        weighted.append((steps, about))
        notes += filter(None, [note, '' if steps else about])
        entries.append(
            dict(
                name=name,
                checkpoint=Path(source.checkpoint).name,
                count=len(attention_layers(model.backbone)),
                objects=objects,
                layers=[],
                rollouts=[],
            )
        )
    data = dict(
        image=dict(
            name=path.name,
            width=image.shape[1],
            height=image.shape[0],
            source=data_url(image),
        ),
        colours={name: colour_table(name) for name in TABLES},
        models=entries,
        notes=notes,
    )
    notes += differences(recorded, models)
    page = assemble(data)
    parts = gather(models, names, recorded, wanted, weighted, progress)
    room = LIMIT - len(page) - NOTES
    chosen = choose([part.variants for part in parts], room)
    notes += left_out(parts, chosen, names)
    for part, variant in zip(parts, chosen):
        if variant.content is None:
            continue
        entry = entries[part.model]
        if variant.content.get('number') is None:
            entry['rollouts'].append(variant.content)
        else:
            entry['layers'].append(variant.content)
    progress('writing')
    write_text(out, assemble(data))
    return notes


def record(
    model: Model, image: np.ndarray, numbers: Sequence[int] | None
) -> tuple[list[Layer], list[int]]:
    """All layers of a model on the image, and the numbers of those to show."""
    with running(model):
        shown = layer_numbers(model.backbone, numbers)
        return record_layers(model.backbone, model.input(image)), sorted({*shown})


def names_of(models: Sequence[Model], sources: Sequence[Source]) -> list[str]:
    """What to call the models: their configs, and where these are equal checkpoints.

    Of these as much of the path as it takes to tell them apart.
    """
    names = [model.name for model in models]
    if len({*names}) == len(names):
        return names
    paths = [Path(source.checkpoint).with_suffix('').parts for source in sources]
    depth = 1
    while depth < max(map(len, paths)) and len({path[-depth:] for path in paths}) == 1:
        depth += 1
    tails = ['/'.join(path[-depth:]) for path in paths]
    return [f'{name}, {tail}' for name, tail in zip(names, tails)]


@torch.no_grad()
def gather(
    models: Sequence[Model],
    names: Sequence[str],
    recorded: Sequence[Sequence[Layer]],
    wanted: Sequence[Sequence[int]],
    weighted: Sequence[tuple[list[Step] | None, str]],
    progress: Progress,
) -> list[Piece]:
    """The layers that are wanted, and rollout, of all models."""
    parts = []
    for number, (model, layers) in enumerate(zip(models, recorded)):
        all_layers = attention_layers(model.backbone)
        strides = [stride_of(model.backbone, layer) for layer in all_layers]
        for at in wanted[number]:
            progress(f'{names[number]}: layer {at} of 0 to {len(layers) - 1}')
            beside = [layers[at]]
            if len({*map(len, recorded)}) == 1:
                beside = [each[at] for each in recorded]
            colours = packed_colours(beside)[number if len(beside) > 1 else 0]
            variants = layer_variants(layers[at], strides[at], colours)
            parts.append(Piece(number, f'layer {at}', variants))
        progress(f'{names[number]}: rollout')
        ends = strides[0], strides[-1]
        steps, about = weighted[number]
        variants = rollout_variants(model, layers, ends)
        parts.append(Piece(number, 'rollout', variants))
        if steps:
            name = 'rollout × gradients'
            found = packed_rollout(steps, ends, name, about)
            parts.append(Piece(number, name, told_variants(found)))
    return parts


def layer_variants(layer: Layer, stride: int, colours: dict) -> list[Variant]:
    """A layer with all heads and charts, with less, and not at all."""
    windows = layer.windows
    slot = slot_of(layer.module)
    with_heads, with_mean = attention_sizes(windows, slot.num_heads)
    nothing = Variant(None, 'all')
    if not with_mean:
        return [nothing]
    key = slot.key
    kind = 'linear' if key is None else type(key).__name__
    if key is not None and slot.has_linear_key:
        kind += ' added to linear'
    common = dict(
        number=layer.number,
        key=kind,
        heads=slot.num_heads,
        colours=colours,
        **packed_windows(windows, stride),
    )
    weights = softmax_weights(layer.module, windows)[0]
    mean = packed_attention(weights.mean(dim=1, keepdim=True), windows)
    charts = packed_charts(layer)
    variants = []
    if with_heads:
        heads = packed_attention(weights, windows)
        variants.append(Variant(dict(**common, attention=heads, charts=charts), ''))
    if slot.num_heads > 1:
        variants.append(Variant(dict(**common, attention=mean, charts=charts), 'heads'))
    if charts is not None:
        alone = dict(**common, attention=mean, charts=None)
        variants.append(Variant(alone, 'heads and charts'))
    return [*variants, nothing]


def rollout_variants(
    model: Model, layers: Sequence[Layer], strides: tuple[int, int]
) -> list[Variant]:
    """Rollout of every token, of all together, and none."""
    if not all(attention_sizes(layer.windows, 1)[1] for layer in layers):
        return [Variant(None, 'all')]
    steps = attention_steps(model.backbone, layers)
    return told_variants(packed_rollout(steps, strides))


def told_variants(found: Sequence[dict]) -> list[Variant]:
    """Rollout in the ways that :func:`packed_rollout` gives, and none."""
    lacks = ['', 'single tokens'][-len(found) :]
    return [*map(Variant, found, lacks), Variant(None, 'all')]


def differences(
    recorded: Sequence[Sequence[Layer]], models: Sequence[Model]
) -> list[str]:
    """In what two models differ that the page must say."""
    if len(models) < 2:
        return []
    counts = [len(attention_layers(model.backbone)) for model in models]
    notes = []
    if counts[0] != counts[1]:
        notes.append(
            f'The models have {counts[0]} and {counts[1]} layers: layers at the same '
            'share of the depth stand side by side.'
        )
    grids = [[layer.windows.hw_shape for layer in layers] for layers in recorded]
    if grids[0] != grids[1]:
        notes.append(
            'The grids of the models differ: tokens are compared by their place in the '
            'image, not by their number, and the difference is of attention per area.'
        )
    return notes


def left_out(
    parts: Sequence[Piece], chosen: Sequence[Variant], names: Sequence[str]
) -> list[str]:
    """What the page had no room for, a sentence for each model."""
    notes = []
    for number, name in enumerate(names):
        lacking = {}
        for part, variant in zip(parts, chosen):
            if part.model == number and variant.lacks:
                lacking.setdefault(variant.lacks, []).append(part.name)
        if lacking:
            told = '; '.join(
                f'{what} of {", ".join(where)}' for what, where in lacking.items()
            )
            notes.append(
                f'Left out of {name} to keep this page below {LIMIT // 1_000_000} MB: '
                f'{told}. A smaller image (--size) or fewer layers (--layers) make '
                'room.'
            )
    return notes
