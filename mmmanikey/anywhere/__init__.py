"""A manifold key in any attention. (Not from the paper.)"""

from .insert import insert_keys, remove_keys

__all__ = ['insert_keys', 'remove_keys']
