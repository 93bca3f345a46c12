"""Values that stand in for others for a while."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager


@contextmanager
def overridden(namespace: MutableMapping, **values: object) -> Iterator[None]:
    """Give names other values within a ``with`` block.

    Args:
        namespace (MutableMapping): ``os.environ``, or the ``vars`` of a module or of an
            object.
        **values (object): The names, which may be new, and their values.
    """
    before = {name: namespace[name] for name in values if name in namespace}
    namespace.update(values)
    try:
        yield
    finally:
        for name in values:
            namespace.pop(name, None)
        namespace.update(before)
