"""What a run would make: what becomes of each weight, and the sizes. Nothing is started or written."""
import re

import pytest
import yaml

from timm_sbs.train import main
from timm_sbs.training.phases import reconstruction, rounding


@pytest.fixture()
def describe(resnet8, monkeypatch, tmp_path, capsys):
    for module, name in ((reconstruction, 'optimize'), (rounding, 'round_to_bits')):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail('a phase began'))

    def printed(**settings):
        config = tmp_path / 'settings.yaml'
        config.write_text(yaml.safe_dump({**resnet8, **settings}))
        assert main(['--config', str(config), '--dry-run']) == 0
        return capsys.readouterr().out.strip()

    return printed


def bytes_of(text):
    return int(re.search(r'both files: about ([\d,]+) bytes', text)[1].replace(',', ''))


def test_says_what_is_generated_and_stored_and_how_large(describe):
    text = describe(keep='layer1.*')
    assert re.search(r'layer2\.0\.conv1\.weight +\[32, 16, 3, 3\] +4,608 +512 tokens of 9\n', text)
    assert 'layer1' not in text
    assert '4 weights generated, 69,120 parameters (91.8 %): 7,680 kernels at 7,680 positions' in text
    for reason, values, tensors in (
            ('stem', 432, 1), ('norms, biases and others', 490, 15), ('statistics and buffers', 480, 14),
            ('classifier', 640, 1)):
        assert re.search(rf'{reason} +{values:,} +values in {tensors} tensors?\n', text), reason
    assert re.search(r'4,608 +values in 2 tensors\n', text)  # layer1, by its name
    assert '15,0' in re.search(r'predictor: width 51, (.*) parameters \(19.9 %\)\n', text)[1]
    assert re.search(r'times smaller than the original.s values', text) and text.endswith('phases: reconstruction')
    assert '4 weights generated, 69,120 parameters (91.8 %): 7,680 kernels at 1,536 positions' in describe(
        keep='layer1.*', max_positions=512)


def test_says_what_is_rounded(describe):
    text = describe(bytes='20k', data_free=True, second_order_steps=9, batch_size=8)
    assert '8 weights rounded, 74,800 parameters (99.3 %)' in text and 19_000 < bytes_of(text) <= 20_000
    assert 'phases: rounding, distillation' in text
    for word in ('predictor', 'weights generated', 'ordering', 'reconstruction'):
        assert word not in text, word


def test_makes_no_folder(describe, tmp_path):
    assert '4 bits per weight' in describe(bits=4, output=str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()
