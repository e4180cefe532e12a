import pytest
import timm
import torch
from conftest import ROUNDED, SHIPPED, fit_quickly

from timm_sbs.artifact.files import artifact_bytes
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact
from timm_sbs.artifact.quantize import quantize_artifact
from timm_sbs.cli.main import main
from timm_sbs.common.errors import ConfigError


@pytest.fixture(scope='module')
def folder(small_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp('floats')
    fit_quickly(small_model, steps=40, pct=20.).with_results({'top1': 90.}).save(folder)
    return folder


def test_a_quantized_copy_is_smaller_and_nearly_the_same(folder, tmp_path, images):
    results = quantize_artifact(folder, tmp_path)
    assert artifact_bytes(tmp_path) < 0.75 * artifact_bytes(folder) and 0 < results['quantization_error'] < 0.01
    before, after = (timm.create_model(f'local-dir:{f}', pretrained=True).eval() for f in (folder, tmp_path))
    with torch.no_grad():
        assert (before(images[0][:100]).argmax(1) == after(images[0][:100]).argmax(1)).float().mean() > 0.85


def test_results_of_the_floats_are_not_claimed(folder, tmp_path):
    quantize_artifact(folder, tmp_path / 'a')
    quantize_artifact(tmp_path / 'a', tmp_path / 'b', bits=5)  # what is quantized can be quantized again
    for name, before in (('a', {'top1': 90.}), ('b', {})):
        results = load_artifact(tmp_path / name).results
        assert 'top1' not in results and before.items() <= results['before_quantization'].items()
    assert load_artifact(tmp_path / 'b').results['before_quantization'].keys() == {'quantization_error'}


def test_more_bits_less_error(folder, tmp_path):
    errors = [quantize_artifact(folder, tmp_path / str(bits), bits=bits)['quantization_error'] for bits in (3, 5, 7)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_the_licence_and_the_ordering_go_with_the_copy(folder, tmp_path):
    artifact = load_artifact(folder)
    artifact.save(tmp_path / 'source')
    (tmp_path / 'source' / 'LICENSE').write_text('CC BY-NC 4.0')
    quantize_artifact(tmp_path / 'source', tmp_path / 'copy')
    copy = load_artifact(tmp_path / 'copy')
    assert copy.license_text == 'CC BY-NC 4.0'
    assert all((a == b).all() for one, other in zip(copy.generator.permutations, artifact.generator.permutations)
               for a, b in zip(one, other))


@pytest.mark.parametrize('wrong, says', [
    (dict(bits=0), 'bits is 0'), (dict(bits=float('nan')), 'bits is nan'), (dict(kept_bits=99), 'kept_bits is 99')])
def test_ranges_are_checked_before_any_work(tmp_path, wrong, says):
    with pytest.raises(ConfigError, match=says):
        quantize_artifact(tmp_path / 'nowhere', tmp_path / 'out', **wrong)


def test_only_a_predictor_is_quantized(tmp_path):
    with pytest.raises(ConfigError, match='has no predictor.*timm-sbs train --bytes'):
        quantize_artifact(shipped_folder(ROUNDED[0]), tmp_path / 'copy')
    assert not (tmp_path / 'copy').exists()


def test_the_command_says_what_it_has_made(tmp_path, capsys):
    assert main(['quantize', SHIPPED, str(tmp_path / 'a'), '--bits', '6']) == 0
    said = capsys.readouterr()
    assert 'stored tensors of 8 bits' in said.out and 'not smaller' not in said.out and not said.err
    assert main(['quantize', str(tmp_path / 'a'), str(tmp_path / 'again'), '--bits', '8']) == 0
    assert 'The copy is not smaller' in capsys.readouterr().out
    assert main(['quantize', SHIPPED, str(tmp_path / 'b'), '--bits', '3']) == 0
    assert 'Allow more bytes' in capsys.readouterr().err  # it has lost its function
    assert main(['quantize', SHIPPED, str(tmp_path / 'c'), '--bits', '12']) == 2
    said = capsys.readouterr().err
    assert 'must be from 2 to 8' in said and said.count('\n') == 1 and not (tmp_path / 'c').exists()
