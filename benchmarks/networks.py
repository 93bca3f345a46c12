"""The backbones that the benchmarks compare, and one way to measure them all."""

import importlib.util
import statistics
from collections.abc import Callable

import measure
import mmdet.models
import mmpretrain.models
import torch
from report import Row, Setting
from torch import Tensor, nn

from mmmanikey.backbones import ManifoldKeySwin, ManifoldKeyViT

STOCK = 'mmdet stock'
#: Swin of other projects; the last two where they are installed.
PEERS = (STOCK, 'mmpretrain', 'timm', 'torchvision')
LINEAR = 'key=None'
#: Ours.
KEYS = (LINEAR, 'SpatialK', 'VanillaK', 'SimpleK', 'KUA')
#: Passes over the network that a quantity stands for, as one counts them: the backward
#: pass is two. What is computed again is no work asked for.
PASSES = {'forward': 1, 'step': 3}
VIT_B = dict(embed_dims=768, num_heads=12, feedforward_channels=3072)
#: Small enough to try a script out in seconds.
QUICK_SWIN = dict(embed_dims=24, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
SWIN_T = dict(embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])
SWIN_B = dict(embed_dims=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32])
DROP_PATH = 0.2
LEVELS = (0, 1, 2, 3)
QUICK_VIT = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


def key_of(name: str, charts: int = 8) -> dict | None:
    """Config of a key from its name in the tables."""
    return None if name == LINEAR else dict(type=name, num_charts=charts)


def swin(name: str, charts: int = 8, quick: bool = False) -> nn.Module:
    """Swin-T for detection: mmdet's own, or ours with the key of that name."""
    arch = QUICK_SWIN if quick else SWIN_T
    if name in PEERS:
        return peer(name, arch)
    return ours(arch, key_of(name, charts))


def ours(arch: dict, key: dict | None, window: int = 7) -> nn.Module:
    """Our Swin of that arch with that key, which gives maps of all stages."""
    return ManifoldKeySwin(
        arch,
        window_size=window,
        key=key,
        drop_path_rate=DROP_PATH,
        out_indices=LEVELS,
        pad_small_map=True,
    )


def installed_peers() -> list[str]:
    """Those of :data:`PEERS` that are installed."""
    return [name for name in PEERS if importlib.util.find_spec(name.split()[0])]


def peer(
    name: str, arch: dict, window: int = 7, size: tuple[int, int] = (224, 224)
) -> nn.Module:
    """The Swin of another project, in that project's usual way to run.

    Args:
        name (str): One of :data:`PEERS`.
        arch (dict): ``embed_dims``, ``depths`` and ``num_heads``.
        window (int): Side of a window. Defaults to 7.
        size (tuple[int, int]): Of the images, which timm wants to know.

    Returns:
        nn.Module: It gives maps of all stages, torchvision's of the last alone.
    """
    stages = dict(depths=arch['depths'], num_heads=arch['num_heads'])
    width = arch['embed_dims']
    if name == STOCK:
        return mmdet.models.SwinTransformer(
            embed_dims=width, window_size=window, drop_path_rate=DROP_PATH, **stages
        )
    if name == 'mmpretrain':
        return mmpretrain.models.SwinTransformer(
            arch,
            window_size=window,
            drop_path_rate=DROP_PATH,
            out_indices=LEVELS,
            pad_small_map=True,
        )
    if name == 'timm':
        import timm

        return timm.create_model(
            'swin_tiny_patch4_window7_224',
            features_only=True,
            img_size=size,
            window_size=window,
            embed_dim=width,
            drop_path_rate=DROP_PATH,
            **stages,
        )
    from torchvision.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        *([4, 4], width),
        window_size=[window, window],
        stochastic_depth_prob=DROP_PATH,
        **stages,
    )
    return nn.Sequential(model.features, model.norm, model.permute, Listed())


class Listed(nn.Module):
    """Gives a list of one map, as the other networks do."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


def vit(name: str, layers: int = 12, quick: bool = False) -> nn.Module:
    """ViT-B for classification with the key of that name, or some of its layers."""
    arch = QUICK_VIT if quick else dict(VIT_B, num_layers=layers)
    return ManifoldKeyViT(arch, key=key_of(name))


def contest(
    case: str,
    models: dict[str, nn.Module],
    shape: tuple[int, ...],
    setting: Setting,
    bounds: dict[tuple[str, str], float] | None = None,
    per_mac: bool = False,
    compiled: bool = False,
) -> list[Row]:
    """Measure backbones against the first of them.

    Args:
        case (str): Name for the table; the shape is added.
        models (dict[str, nn.Module]): By name; the first is what the rest compare with.
        shape (tuple[int, ...]): Of the images, (B, 3, H, W).
        setting (Setting): Where and how.
        bounds (dict, optional): Of ratios, by model and quantity.
        per_mac (bool): Whether the bounds of times are on ratio over MAC ratio.
        compiled (bool): Whether to measure what torch.compile makes of each as well.

    Returns:
        list[Row]: 'forward' in evaluation mode, 'step' and 'saved' (on CUDA 'peak' as
        well) in training mode, for each model.
    """
    device, bounds = setting.device, bounds or {}
    case = f'{"quick " * setting.quick}{case} {"x".join(map(str, shape))}'
    images = torch.randn(shape, device=device)
    models = {name: model.to(device) for name, model in models.items()}
    run = dict(models)
    if compiled:
        run |= {f'{name}, compiled': torch.compile(m) for name, m in models.items()}

    def loss(name: str) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with setting.autocast():
                return sum(out.float().mean() for out in run[name](images))

        return call

    def forward(name: str) -> Callable[[], None]:
        @torch.no_grad()
        def call() -> None:
            with setting.autocast():
                run[name](images)

        return call

    for model in run.values():
        model.eval()
    values = {
        'forward': measure.compare(
            {name: forward(name) for name in run}, setting.rounds
        )
    }
    macs = {}
    for name, model in models.items():
        with torch.no_grad():
            macs[name] = len(images) * measure.macs(lambda: model(images[:1]))  # noqa: B023
        macs[f'{name}, compiled'] = macs[name]

    for model in run.values():
        model.train()
    steps = {name: measure.step(loss(name), run[name]) for name in run}
    values['step'] = measure.compare(steps, setting.rounds)
    values['saved'] = {
        name: [measure.saved_bytes(model, loss(name))] for name, model in models.items()
    }
    if device.type == 'cuda':
        values['peak'] = {
            name: [measure.peak_bytes(run[name], steps[name])] for name in run
        }
    return [
        compared(
            *(case, name, what, next(iter(models)), results, macs, setting),
            bound=bounds.get((name, what)),
            per_mac=per_mac and what in PASSES,
        )
        for what, results in values.items()
        for name in results
    ]


def compared(
    case: str,
    name: str,
    what: str,
    against: str,
    results: dict[str, list[float]],
    macs: dict[str, int],
    setting: Setting,
    bound: float | None = None,
    per_mac: bool = False,
) -> Row:
    """What was measured, and how it compares.

    Args:
        case (str): What was run.
        name (str): Which model or form.
        what (str): The quantity.
        against (str): Name of what it compares with.
        results (dict[str, list[float]]): The quantity, by name, round by round.
        macs (dict[str, int]): Multiply-accumulates of a forward pass, by name.
        setting (Setting): With the rate of a matrix product.
        bound (float, optional): Of the ratio. Defaults to None.
        per_mac (bool): Whether it is on ratio over MAC ratio. Defaults to False.

    Returns:
        Row: Its ratio is the median of the rounds' ratios.
    """
    row = Row(case, name, what, statistics.median(results[name]))
    if row.what in PASSES:
        work = PASSES[row.what] * macs[row.model]
        row.of_rate = work / row.value / setting.rate
    if row.model != against:
        row.against = against
        ratios = [one / other for one, other in zip(results[name], results[against])]
        row.ratio = statistics.median(ratios)
        if len(ratios) > 1:
            row.quartiles = statistics.quantiles(ratios, method='inclusive')[::2]
        row.bound, row.per_mac = bound, per_mac
        if row.what in PASSES:
            row.mac_ratio = macs[row.model] / macs[against]
    return row
