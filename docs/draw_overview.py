"""Draw docs/images/overview.png: where the manifold key stands in the attention.

python docs/draw_overview.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

OUT = Path(__file__).parent / 'images' / 'overview.png'
INK, STOCK, MANIFOLD = '#222222', '#e8e8e8', ['#35618f', '#4c78a8', '#6690bd']


def box(ax, x, y, width, height, text, color, ink=INK, size=10):
    """A rounded box with its text, (x, y) the lower left corner."""
    ax.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle='round,pad=0.02,rounding_size=0.12',
            facecolor=color,
            edgecolor='white',
            linewidth=1.5,
        )
    )
    ax.text(
        x + width / 2, y + height / 2, text, ha='center', va='center',
        fontsize=size, color=ink,
    )  # fmt: skip


def arrow(ax, start, end, color=INK):
    ax.annotate(
        '', end, start, arrowprops=dict(arrowstyle='-|>', color=color, linewidth=1.2)
    )


def main() -> None:
    fig, ax = plt.subplots(figsize=(10.5, 3.9))
    ax.set(xlim=(0, 15.0), ylim=(0, 5.6))
    ax.axis('off')

    box(ax, 0.1, 2.3, 1.7, 1.0, 'tokens x\n(B, N, C)', STOCK)
    box(ax, 3.0, 4.4, 2.6, 0.8, 'query: linear', STOCK)
    box(ax, 3.0, 0.3, 2.6, 0.8, 'value: linear', STOCK)
    arrow(ax, (1.85, 3.2), (2.95, 4.7))
    arrow(ax, (1.85, 2.4), (2.95, 0.8))

    rows = [3.35, 2.45, 1.55]
    for row, chart, color in zip(rows, ('1', '2', 'H'), MANIFOLD):
        arrow(ax, (1.85, 2.8), (2.95, row + 0.35))
        box(ax, 3.0, row, 1.5, 0.7, f'scale $s_{chart}$', color, 'white')
        arrow(ax, (4.55, row + 0.35), (5.0, row + 0.35))
        box(ax, 5.05, row, 2.0, 0.7, rf'chart $\varphi_{chart}$', color, 'white')
        arrow(ax, (7.1, row + 0.35), (8.35, 2.8))
    ax.text(5.0, 2.33, '⋮', ha='center', va='center', fontsize=12, color=INK)
    box(ax, 8.4, 2.3, 1.9, 1.0, 'fuse', MANIFOLD[0], 'white')
    box(ax, 10.9, 2.3, 1.3, 1.0, 'key k\n(B, N, C)', MANIFOLD[0], 'white', 9)
    arrow(ax, (10.35, 2.8), (10.85, 2.8))
    box(ax, 12.8, 2.0, 2.0, 1.6, 'attention\nsoftmax(qkᵀ)v', STOCK)
    arrow(ax, (12.25, 2.8), (12.75, 2.8))
    arrow(ax, (5.65, 4.8), (12.9, 3.65))
    arrow(ax, (5.65, 0.7), (12.9, 1.95))
    OUT.parent.mkdir(exist_ok=True)
    fig.savefig(OUT, dpi=120, bbox_inches='tight', facecolor='white')


if __name__ == '__main__':
    main()
