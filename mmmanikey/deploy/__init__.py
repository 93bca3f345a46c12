"""Export of networks, behind ``tools/deploy/export.py``."""

from .export import Part, check, dense_head, read, trace, write

__all__ = ['Part', 'check', 'dense_head', 'read', 'trace', 'write']
