"""Damaged quantized files: refused, never loaded silently, never a crash or a hang."""
import functools
import hashlib
import json

import numpy as np
import pytest
from conftest import SHIPPED, few_or_all, fit_quickly

from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact, save_artifact
from timm_sbs.common.errors import ArtifactError, SbsError


@few_or_all(300, 10_000)
def test_every_corruption_of_a_byte_is_refused(tmp_path, described_once, count):
    """In the header, in sizes, in tables and in coded integers alike."""
    source = shipped_folder(SHIPPED)
    (tmp_path / 'config.json').write_bytes((source / 'config.json').read_bytes())
    data = (source / 'model.safetensors').read_bytes()
    path = tmp_path / 'model.safetensors'
    path.write_bytes(data)
    load_artifact(tmp_path)
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(data[:8], 'little')
    for trial in range(count):
        damaged = bytearray(data)
        place = int(rng.integers(header if trial % 4 == 0 else len(data)))  # every fourth in the header
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with pytest.raises(SbsError):
            load_artifact(tmp_path)


@functools.cache
def quantized_example(resnet20):
    return fit_quickly(resnet20, steps=20, bits=5.)


@few_or_all(60, 600)
def test_corruptions_under_a_right_checksum_are_refused_or_give_a_complete_model(
        resnet20, tmp_path, described_once, count):
    """As somebody would make them who writes files of his own."""
    artifact = quantized_example(resnet20)
    save_artifact(tmp_path, artifact)
    path = tmp_path / 'model.safetensors'
    data, config = path.read_bytes(), json.loads((tmp_path / 'config.json').read_text())
    shapes = {name: tensor.shape for name, tensor in artifact.kept.items()}
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(count):
        damaged = bytearray(data)
        place = int(rng.integers(700 if trial % 2 else len(data)))  # half of them where headers and tables are
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        config['sbs']['weights_sha256'] = hashlib.sha256(damaged).hexdigest()
        (tmp_path / 'config.json').write_text(json.dumps(config))
        try:
            loaded = load_artifact(tmp_path)
        except SbsError:
            refused += 1
            continue
        assert {name: tensor.shape for name, tensor in loaded.kept.items()} == shapes
        assert all(tensor.isfinite().all() for tensor in loaded.generator.predictor.state_dict().values())
    assert refused > count / 4


def test_a_predictor_larger_than_what_it_generates(resnet20, tmp_path):
    """A few coded bytes may not claim a terabyte of weights."""
    save_artifact(tmp_path, quantized_example(resnet20))
    path = tmp_path / 'config.json'
    config = json.loads(path.read_text())
    config['sbs']['predictor']['width'] = 1 << 20
    path.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match='more than the 267,264 weights that it generates'):
        load_artifact(tmp_path)
