"""Processes of one training that fail together, so that none waits for another."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import all_gather_object, get_rank


@contextmanager
def failing_together(kind: type[Exception]) -> Iterator[None]:
    """All processes wait for each other at the end, and if one fails, all do.

    Args:
        kind (type[Exception]): What the processes raise that did not fail themselves,
            with the words of the first that did.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    told = None if failure is None else f'{failure} (process {get_rank()})'
    failures = list(filter(None, all_gather_object(told)))
    if failure:
        raise failure
    if failures:
        raise kind(failures[0])
