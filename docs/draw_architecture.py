"""Draw docs/images/architecture.png: the rooms of the package, and who imports whom.

python docs/draw_architecture.py
"""

from pathlib import Path

OUT = Path(__file__).parent / 'images' / 'architecture.png'
#: Rooms: what is in them, and where they stand: column and row of the middle.
ROOMS = {
    'engine': ('training and testing', 1, 4),
    'visualization': ('pictures', 3, 4),
    'warmstart': ('stock weights as keys', 5, 4),
    'deploy': ('export', 7, 4),
    'checkpoint': ('weights found, adapted, compared', 1, 2),
    'backbones': ('Swin and ViT', 4, 3),
    'necks': ('pyramid of ViTDet', 7, 3),
    'attention': ('query, key and value', 4, 2),
    'keys': ('a formula each', 4, 1),
    'forms': ('speed', 7, 1.5),
}
#: For each room those that it imports. The modules beside the rooms, such as
#: ``arguments`` and ``grids``, serve all of them and are not drawn.
IMPORTS = {
    'engine': ('backbones', 'checkpoint'),
    'visualization': ('attention', 'backbones', 'checkpoint', 'engine', 'keys'),
    'warmstart': ('backbones', 'keys'),
    'deploy': (),
    'checkpoint': ('keys',),
    'backbones': ('attention', 'checkpoint', 'forms', 'keys'),
    'necks': (),
    'attention': ('forms', 'keys'),
    'keys': ('forms',),
    'forms': ('attention', 'backbones', 'engine', 'keys'),
}
