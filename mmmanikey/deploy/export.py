"""Networks written as ONNX or torch.export files, and checked against the model.

See https://docs.pytorch.org/docs/stable/export.html and
https://docs.pytorch.org/docs/stable/onnx_export.html, on one way to both.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from mmcv.cnn.bricks.transformer import PatchEmbed, PatchMerging
from torch import Tensor, nn

from ..backbones.patches import pad_for_exporters

#: How far a file may be off, absolutely or relatively.
TOLERANCE = 1e-4


class Part(nn.Module):
    """A network that gives tensors by name.

    Those of a backbone are its maps (map0 ...). Those of a detector are the maps of its
    neck, and for each map what its RPN or dense head says of it: scores (score0 ...)
    before the sigmoid, and deltas (delta0 ...) to the anchors.

    Args:
        model (nn.Module): A backbone, or a detector of mmdet. It is frozen.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        model.eval()  # mmpretrain's give None
        for layer in model.modules():
            if isinstance(layer, (PatchEmbed, PatchMerging)):
                pad_for_exporters(layer)
        self.model = model.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        if not hasattr(self.model, 'extract_feat'):
            return numbered('map', self.model(image))
        maps = self.model.extract_feat(image)
        scores, deltas, *others = dense_head(self.model)(maps)
        outs = {
            **numbered('map', maps),
            **numbered('score', scores),
            **numbered('delta', deltas),
        }
        for i, levels in enumerate(others):  # such as the centerness of FCOS
            outs.update(numbered(f'other{i}_', levels))
        return outs


def numbered(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f'{name}{i}': tensor for i, tensor in enumerate(tensors)}


def dense_head(model: nn.Module) -> nn.Module | None:
    """The RPN of a two-stage detector, or the head of a dense one."""
    return getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)


@contextmanager
def exporting() -> Iterator[None]:
    """Keep torch from tying a graph to a size that may change.

    torch's ONNX exporter sets the same switch. Of the kernels of scaled dot-product
    attention only the plain one does not look at the size of the mask; which one runs
    later is not decided here.
    """
    from torch.fx.experimental import _config  # not in old versions
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with (
        _config.patch(backed_size_oblivious=True),
        sdpa_kernel(SDPBackend.MATH),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter('ignore')
        yield


def trace(
    part: Part, image: Tensor, dynamic: Collection[int]
) -> 'torch.export.ExportedProgram':
    """The network as a graph.

    Args:
        part (Part): The network.
        image (Tensor): An example, (B, C, H, W); a dynamic dimension is 2 or more.
        dynamic (Collection[int]): Dimensions of the image that may change.
    """
    dims = dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC)
    with exporting():
        return torch.export.export(part, (image,), dynamic_shapes=(dims,))


def write(
    program: 'torch.export.ExportedProgram',
    path: Path,
    names: Sequence[str],
    dynamic: Mapping[int, str],
    opset: int,
) -> None:
    """Write a traced network.

    Args:
        program (torch.export.ExportedProgram): From :func:`trace`.
        path (Path): The file, ``.pt2`` or else ONNX.
        names (Sequence[str]): Of the outputs in their order, for ONNX.
        dynamic (Mapping[int, str]): Names of the dimensions that may change, for ONNX.
        opset (int): Of ONNX.

    Raises:
        ValueError: If the network needs another opset.
    """
    if path.suffix == '.pt2':
        torch.export.save(program, path)
        return
    with exporting():
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=['image'],
            output_names=list(names),
            verbose=False,
        )
    written = onnx_program.model.opset_imports['']
    if written != opset:
        raise ValueError(f'it needs opset {written}, not {opset}')
    shape = onnx_program.model.graph.inputs[0].shape
    onnx_program.rename_axes({shape[i]: name for i, name in dynamic.items()})
    onnx_program.save(path, external_data=False)


def read(path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function from an image to the outputs of a file, by name."""
    if path.suffix == '.pt2':
        with warnings.catch_warnings():  # torch's, of its own buffers
            warnings.simplefilter('ignore')
            return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]

    def run(image: Tensor) -> dict[str, Tensor]:
        outs = session.run(None, {'image': image.numpy()})
        return {name: torch.from_numpy(out) for name, out in zip(names, outs)}

    return run


def check_file(part: Part, path: Path, shape: tuple[int, ...]) -> float:
    """Run a file and the network on one random image.

    Args:
        part (Part): The network.
        path (Path): The file.
        shape (tuple[int, ...]): Of the image, (B, C, H, W).

    Returns:
        float: The largest absolute difference.

    Raises:
        ValueError: If an output is missing, misshapen or off by more than
            :data:`.export.TOLERANCE`.
    """
    image = torch.randn(shape)
    with torch.no_grad():
        expected, found = part(image), read(path)(image)
    largest = 0.0
    for name, value in expected.items():
        other = found.get(name)
        if other is None or other.shape != value.shape:
            kind = None if other is None else tuple(other.shape)
            raise ValueError(f'{name} is {kind}, not {tuple(value.shape)}')
        difference = (other - value).abs().max().item()
        if not torch.allclose(other, value, TOLERANCE, TOLERANCE):
            raise ValueError(f'{name} is off by {difference:.1e}')
        largest = max(largest, difference)
    return largest
