"""A manifold representation of the key in vision transformers.

Importing the package checks the versions of the OpenMMLab packages it builds on. They
are looked up by module, so that upstream's distributions and the maintained OneDL ones
serve alike, and none of them is imported: the check stays cheap. (Only beside
transformers 5 mmpretrain is imported, see ``do_without_multimodal``.)
"""

import difflib
import importlib
import runpy
from importlib import metadata, util
from pathlib import Path

from packaging.specifiers import SpecifierSet

from .version import __version__

__all__ = ['CONFIGS', 'SUPPORTED', '__version__', 'check_versions', 'config_path']

# Imported when they are asked for: who wants a version or a path waits for no PyTorch.
_LAZY = {
    'insert_keys': '.anywhere',
    'remove_keys': '.anywhere',
    'key_parameters': '.checkpoint.keys_alone',
    'key_state_dict': '.checkpoint.keys_alone',
    'load_keys': '.checkpoint.keys_alone',
}
__all__ += _LAZY

#: The shipped configs: those of the clone, or the wheel's copies.
CONFIGS = (Path(__file__).parent / '.mim' / 'configs').resolve()

#: Supported versions of each module; the minimum is included, the maximum is not.
SUPPORTED = {
    'mmengine': '>=0.10.0,<1.0',
    'mmcv': '>=2.0.1,<2.5',
    'mmdet': '>=3.2,<4',
    'mmpretrain': '>=1.1,<2',
}

# Checked only when installed: classification does without.
_OPTIONAL = ('mmdet',)

# The maintained distribution of each module, for the message where it is missing.
_MAINTAINED = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmpretrain': 'onedl-mmpretrain',
}


def _installed_version(module: str) -> str | None:
    """The version of a module, read without importing it; None if not installed."""
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    # Upstream's version.py holds a literal, the maintained one asks for its own
    # distribution's metadata: both are answered by running that file alone.
    return runpy.run_path(str(Path(spec.origin).with_name('version.py')))['__version__']


def _installed_as(module: str) -> str:
    """The distribution that provides a module, or the maintained one if none does."""
    providers = metadata.packages_distributions().get(module)
    return providers[0] if providers else _MAINTAINED[module]


def check_versions() -> None:
    """Compares the installed OpenMMLab packages with :data:`SUPPORTED`.

    Raises:
        ImportError: If a required package is missing, or if any of them has an
            unsupported version. The message names what was found, what is wanted and
            the command to run.
    """
    for module, wanted in SUPPORTED.items():
        found = _installed_version(module)
        if found is None and module in _OPTIONAL:
            continue
        if found is None or not SpecifierSet(wanted).contains(found, prereleases=True):
            raise ImportError(
                f'mmmanikey {__version__} needs {module}{wanted}, but found '
                f'{found or "none installed"}: run `pip install --no-build-isolation '
                f'"{_installed_as(module)}{wanted}"`.'
            )


def do_without_multimodal() -> None:
    """Lets mmpretrain be imported where transformers 5 is installed.

    mmpretrain imports its multimodal models (BLIP and others) wherever transformers is
    new enough for them. It sets no upper bound, and names that they need, such as
    ``find_pruneable_heads_and_indices``, are gone from transformers 5: then all of
    mmpretrain, up to 1.3.6, ends in an error. Its own switch leaves these models out,
    as where transformers is not installed; building one then raises an error that says
    so.
    """
    try:
        found = metadata.version('transformers')
    except metadata.PackageNotFoundError:
        return
    if SpecifierSet('>=5').contains(found, prereleases=True):
        dependency = importlib.import_module('mmpretrain.utils.dependency')
        dependency.WITH_MULTIMODAL = False


def __getattr__(name: str) -> object:
    """What of a module below is offered here."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def config_path(name: str) -> str:
    """The path of a shipped config, wherever the package is installed.

    Works in a text config, ``_base_ = __import__('mmmanikey').config_path(...)``, and
    in code, ``Config.fromfile(mmmanikey.config_path(...))``.

    Args:
        name: The config's path below ``configs/``, such as
            ``'mask_rcnn_swin_t_spatialk.py'``.

    Returns:
        The absolute path.

    Raises:
        FileNotFoundError: If there is no such config. The message names close ones.
    """
    path = CONFIGS / name
    if not path.is_file():
        names = [str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob('*.py')]
        close = difflib.get_close_matches(name, names)
        hint = f'; did you mean {" or ".join(map(repr, close))}?' if close else '.'
        raise FileNotFoundError(f'mmmanikey has no config {name!r}{hint}')
    return str(path)


check_versions()
do_without_multimodal()
