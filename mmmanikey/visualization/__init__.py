"""Pictures: attention maps, charts, and trainings side by side.

Import from the modules: :mod:`.attention` and :mod:`.charts` for maps as tensors,
:mod:`.scalars` for what a training logged. Nothing is imported here, so that logs
can be read without building a model.
"""
