"""A manifold key in any attention. (Ours.)"""

from .insert import insert_keys, remove_keys

__all__ = ['insert_keys', 'remove_keys']
