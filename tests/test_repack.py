import pytest
import timm
import torch
from conftest import fit_quickly

from timm_sbs.artifact import load_artifact, read_config, save_artifact
from timm_sbs.errors import ConfigError
from timm_sbs.repack import repack


@pytest.fixture(scope='module')
def folder(resnet20, tmp_path_factory):
    folder = tmp_path_factory.mktemp('floats')
    save_artifact(folder, fit_quickly(resnet20, steps=200, pct=10.))
    return folder


def files(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def relative_error(a, b):
    names = load_artifact(a).config.generated
    x, y = load_artifact(a).state_dict(), load_artifact(b).state_dict()
    return sum(float((x[n] - y[n]).square().sum()) for n in names) / sum(float(x[n].square().sum()) for n in names)


def test_a_packed_copy_is_smaller_and_nearly_the_same(folder, tmp_path, images):
    results = repack(folder, tmp_path)
    assert files(tmp_path) < 0.75 * files(folder)
    assert results['packing_error'] == pytest.approx(relative_error(folder, tmp_path), rel=0.01)
    assert results['packing_error'] < 0.01
    before, after = (timm.create_model(f'local-dir:{f}', pretrained=True).eval() for f in (folder, tmp_path))
    with torch.no_grad():
        assert (before(images[0]).argmax(1) == after(images[0]).argmax(1)).float().mean() > 0.9


def test_the_licence_goes_with_the_copy(folder, tmp_path):
    assert not (folder / 'LICENSE').exists()
    repack(folder, tmp_path / 'without')
    assert not (tmp_path / 'without' / 'LICENSE').exists()
    save_artifact(tmp_path / 'source', load_artifact(folder))
    (tmp_path / 'source' / 'LICENSE').write_text('CC BY-NC 4.0')
    repack(tmp_path / 'source', tmp_path / 'copy')
    assert (tmp_path / 'copy' / 'LICENSE').read_text() == 'CC BY-NC 4.0'


def test_results_of_the_unpacked_are_not_claimed(folder, tmp_path):
    from timm_sbs.artifact import record_results
    repack(folder, tmp_path / 'a')
    record_results(tmp_path / 'a', {'top1': 90.})
    repack(tmp_path / 'a', tmp_path / 'b', bits=5)  # what is packed can be packed again
    results = read_config(tmp_path / 'b')[0].results
    assert 'top1' not in results and results['before_packing']['top1'] == 90.


def test_more_bits_less_error(folder, tmp_path):
    errors = [repack(folder, tmp_path / str(bits), bits=bits)['packing_error'] for bits in (3, 5, 7)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


@pytest.mark.parametrize('budget', [54_000, 70_000])
def test_a_budget_is_used_and_kept(folder, tmp_path, budget):
    repack(folder, tmp_path, max_bytes=budget)
    assert budget - 600 < files(tmp_path) <= budget or max(
        read_config(tmp_path)[0].quantization.layer_bits) == 8


def test_what_cannot_be(folder, tmp_path):
    with pytest.raises(ConfigError, match='10,000 bytes are too few: with 2 bits a weight both files take'):
        repack(folder, tmp_path, max_bytes=10_000)
    with pytest.raises(ConfigError, match='must be from 2 to 8'):
        repack(folder, tmp_path, bits=1)
    assert not any(tmp_path.iterdir())
