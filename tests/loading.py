"""Tools as modules, for tests that run them in their own process."""

import sys
from importlib.util import module_from_spec, spec_from_file_location


def load_tool(path):
    """The script at ``path``, freshly loaded; ``sys.path`` stays as it is."""
    spec = spec_from_file_location(f'{path.stem}_tool', path)
    module = module_from_spec(spec)
    before = [*sys.path]
    sys.path.insert(0, str(path.parent))  # as where Python runs it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module
