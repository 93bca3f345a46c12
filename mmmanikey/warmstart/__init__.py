"""Manifold keys from stock weights, without a pretraining of their own."""

from .upgrade import (
    BlockReport,
    needs_images,
    output_change,
    split_batches,
    upgrade_backbone,
)

__all__ = [
    'BlockReport',
    'needs_images',
    'output_change',
    'split_batches',
    'upgrade_backbone',
]
