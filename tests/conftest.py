"""Settings shared by all tests."""

import pytest
import torch
from hypothesis import settings

# Small models on shared runners: what matters is that every run draws the same.
settings.register_profile('mmmanikey', deadline=None, derandomize=True, max_examples=25)
settings.load_profile('mmmanikey')


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
