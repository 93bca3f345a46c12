"""Draw docs/images/architecture.png: the rooms of the package, and which imports which.

python docs/draw_architecture.py
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from draw_overview import INK, MANIFOLD, STOCK
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

OUT = Path(__file__).parent / 'images' / 'architecture.png'
#: For each room what is in it, and where it stands: column and row of its middle.
ROOMS = {
    'engine': ('training and testing', 2, 5.6),
    'visualization': ('pictures', 2, 3.4),
    'checkpoint': ('weights: find, adapt,\ncompare, copy', 2, 1),
    'deploy': ('export', 7, 5.6),
    'backbones': ('Swin and ViT', 7, 4.2),
    'attention': ('query, key and value', 7, 2.6),
    'keys': ('a formula each', 7, 1),
    'necks': ("ViTDet's pyramid", 12, 5.6),
    'warmstart': ('stock weights as keys', 12, 4.4),
    'anywhere': ("keys in others' networks", 12, 3.1),
    'forms': ('everything for speed', 12, 1.8),
}
#: For each room those that it imports. The modules that stand beside the rooms, such as
#: ``arguments`` and ``grids``, serve all of them and are not drawn.
IMPORTS = {
    'engine': {'backbones', 'checkpoint'},
    'visualization': {'attention', 'backbones', 'checkpoint', 'engine', 'keys'},
    'warmstart': {'backbones', 'keys'},
    'deploy': {'backbones'},
    'backbones': {'anywhere', 'attention', 'checkpoint', 'forms', 'keys'},
    'necks': set(),
    'anywhere': {'attention', 'forms', 'keys'},
    'checkpoint': {'attention', 'keys'},
    'attention': {'forms', 'keys'},
    'forms': {'attention', 'backbones', 'keys'},
    'keys': {'forms'},
}
#: Arrows that go around a room that stands between.
CURVED = {('engine', 'checkpoint'): 0.8, ('backbones', 'keys'): -1.1}
WIDTH, HEIGHT = 3.0, 0.85


def draw_rooms(ax: plt.Axes) -> dict[str, FancyBboxPatch]:
    """The boxes, by the name of the room."""
    boxes = {}
    for name, (what, x, y) in ROOMS.items():
        heart = name in ('keys', 'attention', 'backbones')
        boxes[name] = FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle='round,pad=0.02,rounding_size=0.12',
            facecolor=MANIFOLD[0] if heart else STOCK,
            edgecolor='white',
            zorder=2,
        )
        ax.add_patch(boxes[name])
        ink = 'white' if heart else INK
        style = dict(ha='center', color=ink, zorder=3)
        ax.text(x, y + 0.12, name, va='bottom', weight='bold', fontsize=10, **style)
        ax.text(x, y + 0.06, what, va='top', fontsize=8, **style)
    return boxes


def draw_imports(ax: plt.Axes, boxes: dict[str, FancyBboxPatch]) -> None:
    """An arrow from each room to those that it imports; both ways is one line."""
    for name, imported in IMPORTS.items():
        for other in imported:
            mutual = name in IMPORTS[other]
            if mutual and name > other:
                continue
            arrow = FancyArrowPatch(
                ROOMS[name][1:],
                ROOMS[other][1:],
                patchA=boxes[name],
                patchB=boxes[other],
                connectionstyle=f'arc3,rad={CURVED.get((name, other), 0)}',
                arrowstyle='<|-|>' if mutual else '-|>',
                mutation_scale=11,
                color='#777777',
                linewidth=1.0,
                zorder=1,
            )
            ax.add_patch(arrow)


def main() -> None:
    fig, ax = plt.subplots(figsize=(10.5, 4.9))
    ax.set(xlim=(-0.6, 13.7), ylim=(0.4, 6.1))
    ax.axis('off')
    draw_imports(ax, draw_rooms(ax))
    drawn = json.dumps({name: sorted(rooms) for name, rooms in IMPORTS.items()})
    fig.savefig(
        OUT,
        dpi=120,
        bbox_inches='tight',
        facecolor='white',
        metadata={'Description': drawn},  # by which a test knows what it shows
    )


if __name__ == '__main__':
    main()
