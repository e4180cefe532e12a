import re

import pytest
from conftest import RESNET

from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import read_config
from timm_sbs.cli import main as cli
from timm_sbs.train import main


def plan_of(capsys, tmp_path, *argv):
    assert main([*RESNET, '--dry-run', '--output', str(tmp_path / 'out'), *argv]) == 0
    assert not (tmp_path / 'out').exists()
    return capsys.readouterr().out


def test_says_what_is_generated_and_kept_and_how_large(capsys, tmp_path):
    text = plan_of(capsys, tmp_path, '--keep', 'layer1.*')
    assert 'layer2.0.conv1.weight  [32, 16, 3, 3]' in text and 'layer1' not in text
    assert '12 weights, 28,160 kernels at 28,160 places, 253,440 parameters (94.0 %)' in text
    assert re.search(r'layer2\.0\.conv1\.weight .* 4,608  512 tokens of 9\n', text)
    for reason, values, tensors in (
            ('stem', 432, 1), ('norms, biases and others', 1386, 39), ('statistics and buffers', 1376, 38),
            ('classifier', 640, 1), ('kept by name', 13824, 6)):
        assert re.search(rf'{reason} +{values:,} values in {tensors} tensors\n', text), reason
    folded = plan_of(capsys, tmp_path, '--keep', 'layer1.*', '--max-places', '1024')
    assert '12 weights, 28,160 kernels at 11,264 places' in folded
    assert '53,921 parameters (20.0 %)' in text
    assert 'statistics:' not in text


def test_the_original_has_the_size_that_artifacts_and_the_demo_say(capsys, tmp_path):
    """That of its values in float32, whatever else its files hold, and in whatever numbers they hold them."""
    size = f"{read_config(shipped_folder('sbs_resnet20_cifar10_20pct'))[0].ledger['original']:,}"
    assert size == '1,084,392' and f"the original's values, {size}" in plan_of(capsys, tmp_path)
    assert f"the original's values, {size}" in plan_of(capsys, tmp_path, '--method', 'rounding', '--bits', '3')
    for argv in (['info', 'sbs_resnet20_cifar10_20pct'], ['demo']):
        assert cli.main(argv) == 0 and size in capsys.readouterr().out


def test_says_the_memory_of_statistics_and_takes_no_step(capsys, tmp_path, monkeypatch):
    for module in ('reconstruction', 'second_order', 'distillation'):
        monkeypatch.setattr(f'timm_sbs.training.steps.{module}.Progress', lambda *_, **__: pytest.fail('a phase began'))
    text = plan_of(capsys, tmp_path, '--data-free', 'noise', '-b', '8', '--second-order-steps', '9')
    assert re.search(r'statistics: [\d,]+ images, \d+ MB of memory', text)


@pytest.mark.parametrize('budget', ['150k', '100KiB'])
def test_a_budget_in_bytes(capsys, tmp_path, budget):
    text = plan_of(capsys, tmp_path, '--bytes', budget, '--order-over', 'axes', '--bits', '6')
    total = int(re.search(r'files: ([\d,]+) bytes', text)[1].replace(',', ''))
    limit = {'150k': 150_000, '100KiB': 102_400}[budget]
    assert 0.95 * limit < total <= limit
