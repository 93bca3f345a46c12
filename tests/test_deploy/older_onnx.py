"""Export a backbone by torch's exporter that traces, and say if the files are right.

python tests/test_deploy/older_onnx.py FAMILY
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path

import onnxruntime
import torch

AXES = {'none': [], 'batch': [0], 'all': [0, 2, 3]}


def session(path):
    """A function from an image to the outputs of a file, by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it logs what it raises
    cpu = ['CPUExecutionProvider']
    loaded = onnxruntime.InferenceSession(path, options, providers=cpu)
    (image,) = loaded.get_inputs()

    def run(x):
        try:
            return loaded.run(None, {image.name: x.numpy()})
        except Exception as error:  # its own, of no common type
            raise RuntimeError('refused') from error

    return run


def main(family):
    sys.path.append(str(Path(__file__).parents[1]))  # pytest's own do so too
    from test_traces import OTHERS, TRACED, make, outcome

    model = make(family, residual=True)
    for dynamic, axes in AXES.items():
        path = os.path.join(tempfile.mkdtemp(), 'file.onnx')
        torch.onnx.export(
            model,
            (torch.randn(TRACED),),
            path,
            dynamo=False,
            input_names=['image'],
            dynamic_axes={'image': {axis: f'axis{axis}' for axis in axes}},
        )
        run = session(path)
        said = [outcome(run, model, shape) for shape in (TRACED, *OTHERS)]
        print(f'{dynamic}: {" ".join(said)}', flush=True)


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    main(sys.argv[1])
