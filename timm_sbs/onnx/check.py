"""Whether ONNX Runtime reads a model, has no weight left to compute, and gives the network's outputs."""
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import nn

from timm_sbs.common.errors import ArtifactError, short_reason
from timm_sbs.onnx.network import INPUT

__all__ = ['Checked', 'check_model']

TOLERANCE = 1e-4  # of the largest output
BATCH = 3  # images; another number than that of tracing, which must not have stayed in the model


class Checked(NamedTuple):
    """What ONNX Runtime made of a model.

    Attributes:
        version: Of ONNX Runtime.
        difference: The largest one of an output from the network's, relative to the largest output.
    """
    version: str
    difference: float


def check_model(
        model: bytes, network: nn.Module, mean: Sequence[float], std: Sequence[float], plain: bool = False,
) -> Checked | None:
    """Run a model beside the network that it was made of; None if onnxruntime is not installed.

    Args:
        mean: Of each channel, with ``std``, by which a model with preprocessing normalizes images.
        plain: Its weights are constants: whatever is computed without images is the network's own.

    Raises:
        ArtifactError: ONNX Runtime cannot read the model, leaves weights to be computed with each inference, or gives
            other outputs.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    version = onnxruntime.__version__
    try:
        with tempfile.TemporaryDirectory() as folder:
            found, normalized, left = _run(model, Path(folder) / 'expanded.onnx', mean, std)
    except OSError as e:
        raise ArtifactError(f'The model cannot be checked, which needs a temporary folder: {e}.') from e
    except Exception as e:  # whatever onnxruntime raises
        raise ArtifactError(
            f'onnxruntime {version} cannot run the model: {short_reason(e)} Try: pip install --upgrade onnxruntime.'
        ) from e
    if left and not plain:
        raise ArtifactError(
            f'onnxruntime {version} would compute weights anew for each image, in {left} nodes. Use --plain.')
    with torch.no_grad():
        exact = network(torch.from_numpy(normalized).float()).numpy()
    difference = float(np.abs(found - exact).max() / max(np.abs(exact).max(), np.finfo(np.float32).tiny))
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"The outputs of onnxruntime {version} differ from the network's by {difference:.1e} of the largest one.")
    return Checked(version, difference)


def _run(
        model: bytes, expanded: Path, mean: Sequence[float], std: Sequence[float],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Outputs of random images, these images as the network takes them, and how many nodes ONNX Runtime leaves that
    compute weights. It writes the model as it has it to a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(expanded)
    options.add_session_config_entry(  # for what expands to more than the 2 GB that one file may have
        'session.optimized_model_external_initializers_file_name', f'{expanded.name}.data')
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    given = session.get_inputs()[0]
    images: Any = np.random.default_rng(0).integers(0, 256, (BATCH, *given.shape[1:])).astype(np.uint8)
    if given.type == 'tensor(uint8)':
        normalized = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    else:
        images = normalized = images.astype(np.float32) / 128 - 1
    found = session.run(None, {INPUT: images})[0]
    return found, normalized, _left(onnx.load(expanded, load_external_data=False).graph)


def _left(graph: onnx.GraphProto) -> int:
    """Nodes that do not depend on the images."""
    dependent, left = {INPUT}, 0
    for node in graph.node:
        if dependent.intersection(node.input):
            dependent.update(node.output)
        else:
            left += 1
    return left
