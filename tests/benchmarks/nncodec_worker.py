"""Code a checkpoint with NNCodec at several quantization parameters, for accuracy_over_bytes.py.

Runs in an environment of its own, for nncodec wants numpy < 2:

    python -m venv nncodec && nncodec/bin/pip install nncodec safetensors 'numpy<2'
    nncodec/bin/python tests/benchmarks/nncodec_worker.py WEIGHTS.safetensors OUT -32 -28 -24

Writes OUT/QP.nnc, whose size counts, and OUT/QP.safetensors, the decoded tensors. Settings are nncodec's defaults:
dependent quantization, row skipping, and its own quantization parameter for everything that is no weight matrix.
"""
import contextlib
import io
import sys
from pathlib import Path

import numpy as np
from nncodec import nnc
from safetensors.numpy import load_file, save_file


def main(weights: str, out: str, *parameters: str) -> None:
    state = {name: tensor for name, tensor in load_file(weights).items() if not name.endswith('num_batches_tracked')}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for qp in map(int, parameters):
        path = folder / f'{qp}.nnc'
        with contextlib.redirect_stdout(io.StringIO()):
            nnc.compress(
                {name: tensor.astype(np.float32) for name, tensor in state.items()}, bitstream_path=str(path), qp=qp,
                use_dq=True, row_skipping=True)
            decoded = nnc.decompress(str(path))
        save_file({name: np.ascontiguousarray(decoded[name]).reshape(tensor.shape).astype(np.float32)
                   for name, tensor in state.items()}, folder / f'{qp}.safetensors')


if __name__ == '__main__':
    main(*sys.argv[1:])
