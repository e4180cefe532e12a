from argparse import ArgumentTypeError

import pytest
import timm
import torch
from conftest import fit_quickly

from timm_sbs.artifact.folder import artifact_ledger, load_artifact, read_config, save_artifact
from timm_sbs.artifact.quantize import ByteBudget, quantize_artifact
from timm_sbs.cli.main import main
from timm_sbs.codec import tensor_file
from timm_sbs.codec.bit_allocation import FEWEST, MOST
from timm_sbs.common.config import byte_count
from timm_sbs.common.errors import ConfigError


@pytest.fixture(scope='module')
def folder(resnet20, tmp_path_factory):
    folder = tmp_path_factory.mktemp('floats')
    save_artifact(folder, fit_quickly(resnet20, steps=100, pct=10.))
    return folder


def files(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def relative_error(a, b):
    names = load_artifact(a).config.generated
    x, y = load_artifact(a).state_dict(), load_artifact(b).state_dict()
    return sum(float((x[n] - y[n]).square().sum()) for n in names) / sum(float(x[n].square().sum()) for n in names)


def test_a_quantized_copy_is_smaller_and_nearly_the_same(folder, tmp_path, images):
    results = quantize_artifact(folder, tmp_path)
    assert files(tmp_path) < 0.75 * files(folder)
    assert results['quantization_error'] == pytest.approx(relative_error(folder, tmp_path), rel=0.01)
    assert results['quantization_error'] < 0.01
    before, after = (timm.create_model(f'local-dir:{f}', pretrained=True).eval() for f in (folder, tmp_path))
    with torch.no_grad():
        assert (before(images[0][:100]).argmax(1) == after(images[0][:100]).argmax(1)).float().mean() > 0.85


def test_the_licence_goes_with_the_copy(folder, tmp_path):
    assert not (folder / 'LICENSE').exists()
    quantize_artifact(folder, tmp_path / 'without')
    assert not (tmp_path / 'without' / 'LICENSE').exists()
    save_artifact(tmp_path / 'source', load_artifact(folder))
    (tmp_path / 'source' / 'LICENSE').write_text('CC BY-NC 4.0')
    quantize_artifact(tmp_path / 'source', tmp_path / 'copy')
    assert (tmp_path / 'copy' / 'LICENSE').read_text() == 'CC BY-NC 4.0'


def test_results_of_the_floats_are_not_claimed(folder, tmp_path):
    from timm_sbs.artifact.folder import record_results
    quantize_artifact(folder, tmp_path / 'a')
    record_results(tmp_path / 'a', {'top1': 90.})
    quantize_artifact(tmp_path / 'a', tmp_path / 'b', bits=5)  # what is quantized can be quantized again
    results = read_config(tmp_path / 'b')[0].results
    assert 'top1' not in results and results['before_quantization']['top1'] == 90.


def test_more_bits_less_error(folder, tmp_path):
    errors = [quantize_artifact(folder, tmp_path / str(bits), bits=bits)['quantization_error'] for bits in (3, 5, 7)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


@pytest.mark.parametrize('budget', [54_000, 70_000])
def test_a_budget_is_used_and_kept(folder, tmp_path, budget):
    quantize_artifact(folder, tmp_path, max_bytes=budget)
    assert budget - 600 < files(tmp_path) <= budget


def test_a_budget_for_more_than_the_most_bits_is_kept(folder, tmp_path):
    quantize_artifact(folder, tmp_path / 'large', max_bytes=10_000_000)
    assert set(read_config(tmp_path / 'large')[0].quantization.layer_bits) == {MOST}
    quantize_artifact(folder, tmp_path / 'most', bits=MOST)
    assert files(tmp_path / 'large') == files(tmp_path / 'most')


@pytest.mark.parametrize('limit', [{}, {'max_bytes': 60_000}])
def test_a_copy_codes_the_ordering_once(folder, tmp_path, monkeypatch, limit):
    coded, encode = [], tensor_file.encode_permutations
    monkeypatch.setattr(tensor_file, 'encode_permutations', lambda rows: coded.append(rows) or encode(rows))
    quantize_artifact(folder, tmp_path, **limit)
    assert len(coded) == 1
    found, expected = load_artifact(tmp_path).generator.permutations, load_artifact(folder).generator.permutations
    assert all((a == b).all() for one, other in zip(found, expected) for a, b in zip(one, other))


def test_what_cannot_be(folder, tmp_path):
    with pytest.raises(ConfigError, match='10,000 bytes are too few: with 2 bits a weight both files take'):
        quantize_artifact(folder, tmp_path, max_bytes=10_000)
    with pytest.raises(ConfigError, match='must be from 2 to 8'):
        quantize_artifact(folder, tmp_path, bits=1)
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope='module')
def trained(resnet20):
    return fit_quickly(resnet20, steps=100, pct=10., linear_layers=4, bits=5.)


def test_bits_are_lowered_until_both_files_fit(trained):
    full = artifact_ledger(trained)['total']
    for limit in (full, full - 1000, full - 5000):
        lowered = trained.quantized(ByteBudget(trained, limit).fitted(trained))
        assert limit - 500 < artifact_ledger(lowered)['total'] <= limit
    assert ByteBudget(trained, full).fitted(trained) is trained.storage.quantization
    assert set(ByteBudget(trained, 100).fitted(trained).layer_bits) == {FEWEST}


def test_orderings_are_coded_once_for_a_budget(trained, monkeypatch):
    """They take most of the time, and training does not change them."""
    budget, coded = ByteBudget(trained, 60_000), []
    monkeypatch.setattr('timm_sbs.codec.tensor_file.encode_permutations', lambda rows: coded.append(rows))
    budget.fitted(trained)
    budget.fitted(trained)
    assert not coded


@pytest.mark.parametrize('wrong, says', [
    (dict(bits=0), 'bits is 0'), (dict(bits=12), 'bits is 12'), (dict(bits=float('nan')), 'bits is nan'),
    (dict(kept_bits=99), 'kept_bits is 99'), (dict(kept_bits=0), 'kept_bits is 0'),
    (dict(max_bytes=0), 'max_bytes is 0'), (dict(max_bytes=-5), 'max_bytes is -5'),
    (dict(bits=0, max_bytes=70_000), 'bits is 0')])
def test_ranges_are_checked_before_any_work(tmp_path, wrong, says):
    with pytest.raises(ConfigError, match=says):
        quantize_artifact(tmp_path / 'nowhere', tmp_path / 'out', **wrong)


@pytest.mark.parametrize('flags, says', [
    (['--bits', '0'], 'bits is 0'), (['--bits', '12'], 'must be from 2 to 8'), (['--kept-bits', '99'], 'from 4 to 12')])
def test_the_command_says_so_in_a_sentence(folder, tmp_path, capsys, flags, says):
    assert main(['quantize', str(folder), str(tmp_path / 'out'), *flags]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count('\n') == 1 and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('text', ['0', '-1', '-64k', 'nan', 'inf', '0.5', '', 'k', '1e400', 'many'])
def test_numbers_of_bytes_that_are_none(folder, tmp_path, capsys, text):
    with pytest.raises(ArgumentTypeError, match='is no number of bytes'):
        byte_count(text)
    with pytest.raises(SystemExit):
        main(['quantize', str(folder), str(tmp_path), f'--bytes={text}'])
    assert 'is no number of bytes, such as' in capsys.readouterr().err
