"""Export of networks, behind ``tools/deploy/export.py``."""

from .export import Part, check_file, dense_head, read, trace, write

__all__ = ['Part', 'check_file', 'dense_head', 'read', 'trace', 'write']
