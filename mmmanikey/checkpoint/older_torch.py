"""Reads checkpoints without running code where torch, before 2.5, has no allow-list.

Given to ``torch.load`` as its ``pickle_module``: an unpickler that looks up only what
it was allowed (https://docs.python.org/3/library/pickle.html#restricting-globals). What
torch's own ``weights_only=True`` allows is allowed here too.
"""

import _codecs
import pickle
from collections.abc import Iterable
from types import SimpleNamespace

from torch._weights_only_unpickler import _get_allowed_globals


def safe_pickle(allowed: Iterable[object]) -> SimpleNamespace:
    """What ``torch.load`` needs of a pickle module.

    ``allowed`` is as for ``torch.serialization.safe_globals``. Any other name raises
    ``pickle.UnpicklingError``, which says it after ``GLOBAL`` as torch does.
    """
    names = {'_codecs.encode': _codecs.encode, **_get_allowed_globals()}
    for item in allowed:
        if not isinstance(item, tuple):
            item = item, f'{item.__module__}.{item.__qualname__}'
        names[item[1]] = item[0]

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            # protocol 2, which torch writes, has Python 2's name for it
            path = f'{"builtins" if module == "__builtin__" else module}.{name}'
            if path not in names:
                raise pickle.UnpicklingError(f'GLOBAL {path} is not allowed')
            return names[path]

    return SimpleNamespace(
        __name__='pickle',  # torch asks whether it is dill
        Unpickler=Unpickler,
        UnpicklingError=pickle.UnpicklingError,
        load=lambda file, **options: Unpickler(file, **options).load(),
    )
