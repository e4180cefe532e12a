"""A quantized predictor gives the same network everywhere: logits that were recorded once, maybe elsewhere."""
import json
from pathlib import Path

import pytest
import timm
import torch
from conftest import CIFAR_ALL, SHIPPED

RECORDED = json.loads((Path(__file__).parents[1] / 'data' / 'logits.json').read_text())


@pytest.mark.parametrize('name, threads', [*((name, 1) for name in CIFAR_ALL), (SHIPPED, 2)])
def test_logits_are_the_recorded_ones(name, images, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            logits = timm.create_model(name, pretrained=True).eval()(images[0][:8])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(logits, torch.tensor(RECORDED[name]), atol=1e-3, rtol=0)
