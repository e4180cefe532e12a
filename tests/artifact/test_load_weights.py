"""Generated weights are kept, found again for the very same files only, and handed to timm without copies."""
import dataclasses
import shutil

import pytest
import timm
import torch
from conftest import SHIPPED, fit_quickly

from timm_sbs import SbsError
from timm_sbs.artifact import load_weights as weights
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.artifact.folder import load_artifact, record_results, save_artifact
from timm_sbs.artifact.load_weights import load_weights
from timm_sbs.cli import main as cli
from timm_sbs.common.cache import cache_entries, clear_cache
from timm_sbs.common.config import OrderingConfig, StorageConfig
from timm_sbs.common.files import file_sha256
from timm_sbs.models.resnet_cifar import ResNetCifar
from timm_sbs.predictor.ordering import fold_of


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv('TIMM_SBS_CACHE', str(tmp_path / 'cache'))


@pytest.fixture()
def generations(monkeypatch):
    """Folders whose weights are generated, one after the other."""
    folders = []

    def load(folder):
        folders.append(folder)
        return load_artifact(folder)

    monkeypatch.setattr(weights, 'load_artifact', load)
    return folders


@pytest.fixture()
def artifact_folder(tmp_path):
    return shutil.copytree(shipped_folder(SHIPPED), tmp_path / 'artifact')


def test_generated_once_and_found_again(artifact_folder, generations):
    first, second = load_weights(artifact_folder), load_weights(artifact_folder)
    assert len(generations) == 1
    assert set(first.state_dict) == set(second.state_dict)
    assert all(torch.equal(tensor, second.state_dict[name]) for name, tensor in first.state_dict.items())
    assert first.config == second.config and first.pretrained_cfg == second.pretrained_cfg
    entry, = cache_entries()
    assert entry.kind == 'weights' and entry.description == f'resnet20_cifar10 of {artifact_folder}'


def test_models_from_the_cache_are_the_same(generations):
    first, second = (timm.create_model(SHIPPED, pretrained=True, num_classes=7, in_chans=1) for _ in range(2))
    assert len(generations) == 1
    for name, tensor in first.state_dict().items():
        if not name.startswith('linear'):  # drawn at random, since there are other classes
            assert torch.equal(tensor, second.state_dict()[name])


def test_a_copy_elsewhere_is_the_same_artifact(artifact_folder, tmp_path, generations):
    load_weights(artifact_folder)
    load_weights(shutil.copytree(artifact_folder, tmp_path / 'copy'))
    assert len(generations) == 1


def test_other_files_are_another_artifact(artifact_folder, generations):
    load_weights(artifact_folder)
    record_results(artifact_folder, {'top1': 1.})
    load_weights(artifact_folder)
    assert len(generations) == 2


def test_a_damaged_artifact_is_refused_although_its_weights_are_kept(artifact_folder):
    load_weights(artifact_folder)
    path = artifact_folder / 'model.safetensors'
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(SbsError, match='checksum'):
        load_weights(artifact_folder)


def test_a_damaged_cache_is_no_obstacle(artifact_folder, generations):
    expected = load_weights(artifact_folder).state_dict
    entry, = cache_entries()
    entry.path.write_bytes(entry.path.read_bytes()[:-100])
    found = load_weights(artifact_folder).state_dict
    assert len(generations) == 2 and all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_off_keeps_nothing(artifact_folder, generations, monkeypatch, tmp_path):
    monkeypatch.setenv('TIMM_SBS_CACHE', 'off')
    for _ in range(2):
        load_weights(artifact_folder)
    assert len(generations) == 2 and not (tmp_path / 'cache').exists()


def test_cleared_weights_are_generated_again(artifact_folder, generations):
    load_weights(artifact_folder)
    assert clear_cache('orderings') == 0
    size = cache_entries()[0].size
    assert clear_cache('weights') == size > 1_000_000 and not cache_entries()
    load_weights(artifact_folder)
    assert len(generations) == 2


def test_a_tensor_of_two_names_is_kept_under_both(tmp_path):
    """A model whose classifier shares its weight with another layer."""
    tensor = torch.randn(3, 2)
    kept = weights.with_own_memory({'a': tensor, 'b': tensor, 'c': torch.zeros(())})
    assert torch.equal(kept['a'], kept['b']) and kept['a'].data_ptr() != kept['b'].data_ptr()


@pytest.mark.filterwarnings('ignore:.*which is a no-op')  # timm, when it loads weights into a model on meta
@pytest.mark.parametrize('device', ['cpu', torch.device('cpu')])
def test_weights_are_generated_where_the_model_is_built(device, monkeypatch):
    seen = []
    monkeypatch.setattr('timm_sbs.models.create.load_weights', lambda folder, where: seen.append(where) or load_weights(
        folder, where))
    timm.create_model(SHIPPED, pretrained=True, device=device)
    timm.create_model(SHIPPED, pretrained=True)
    with torch.device('meta'):
        model = timm.create_model(SHIPPED, pretrained=True)
    assert seen == [torch.device('cpu'), torch.device('cpu'), torch.device('meta')]
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize('args', [{}, dict(features_only=True), dict(in_chans=1)])
def test_parameters_are_plain_ones(args):
    """The tensors that timm is handed are of a kind of their own, of which nothing may be left in the model."""
    model = timm.create_model(SHIPPED, pretrained=True, **args)
    for tensor in (*model.parameters(), *model.buffers()):
        assert type(tensor.detach()) is torch.Tensor
    half = timm.create_model(SHIPPED, pretrained=True, dtype=torch.bfloat16)
    assert all(parameter.dtype == torch.bfloat16 for parameter in half.parameters())


def test_the_callers_precision_does_not_matter(monkeypatch):
    """Of the weights: the model itself is built as the default dtype says."""
    monkeypatch.setenv('TIMM_SBS_CACHE', 'off')
    folder = shipped_folder(SHIPPED)
    expected = load_weights(folder).state_dict
    with torch.autocast('cpu', torch.bfloat16):
        found = load_weights(folder).state_dict
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    torch.set_default_dtype(torch.float64)
    try:
        found = load_weights(folder).state_dict
        model = timm.create_model(SHIPPED, pretrained=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert model.conv1.weight.dtype == torch.float64 and torch.equal(model.conv1.weight, expected['conv1.weight'])


def test_timm_makes_no_copy_of_the_weights(monkeypatch, artifact_folder):
    """Else a large network would need its memory once more."""
    copied = []
    monkeypatch.setattr(torch.Tensor, '__deepcopy__', lambda self, memo: copied.append(self) or self.clone())
    timm.create_model(f'local-dir:{artifact_folder}', pretrained=True)
    assert not copied


def test_folded_predictors_load_as_they_were_fitted(resnet20, tmp_path):
    artifact = fit_quickly(resnet20, ordering=OrderingConfig(max_places=1000))
    assert {fold_of(spec, artifact.config.ordering) for spec in artifact.generator.specs} == {1, 4, 16}
    artifact = dataclasses.replace(artifact, storage=StorageConfig('float32'))
    save_artifact(tmp_path / 'folded', artifact)
    model = timm.create_model(f"local-dir:{tmp_path / 'folded'}", pretrained=True)
    for name, tensor in artifact.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_the_cache_command_lists_and_clears(artifact_folder, capsys, monkeypatch):
    load_weights(artifact_folder)
    size = cache_entries()[0].size
    assert cli.main(['cache']) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f'{size:,} bytes in ')
    assert f'weights {size:>15,}' in second and str(artifact_folder) in second
    assert cli.main(['cache', '--clear']) == 0
    assert capsys.readouterr().out.startswith(f'freed {size:,} bytes')
    assert cli.main(['cache']) == 0 and capsys.readouterr().out.startswith('0 bytes')
    monkeypatch.setenv('TIMM_SBS_CACHE', 'off')
    assert cli.main(['cache']) == 0 and 'off' in capsys.readouterr().out


@pytest.mark.parametrize('place', [-1, -100_000, 200])
def test_damaged_bytes_in_the_cache_are_generated_anew(artifact_folder, generations, place):
    expected = load_weights(artifact_folder).state_dict
    entry, = cache_entries()
    data = bytearray(entry.path.read_bytes())
    data[place] ^= 64
    entry.path.write_bytes(data)
    found = load_weights(artifact_folder).state_dict
    assert len(generations) == 2 and all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    load_weights(artifact_folder)
    assert len(generations) == 2


def test_each_file_is_read_for_its_checksum_once(artifact_folder, monkeypatch):
    read = []
    monkeypatch.setattr('timm_sbs.artifact.files.file_sha256', lambda path: read.append(path.name) or file_sha256(path))
    load_weights(artifact_folder)
    assert read == ['model.safetensors']
    load_weights(artifact_folder)
    assert read == ['model.safetensors'] * 2


@pytest.fixture()
def built(monkeypatch):
    """Devices of the base models that are built, one after the other."""
    devices, init = [], ResNetCifar.__init__

    def count(self, *args, **kwargs):
        devices.append(torch.empty(0).device.type)
        init(self, *args, **kwargs)

    monkeypatch.setattr(ResNetCifar, '__init__', count)
    return devices


def test_the_base_is_built_once_on_meta_and_once_for_the_user(artifact_folder, built):
    for name in (f'local-dir:{artifact_folder}', SHIPPED):
        clear_cache()
        built.clear()
        timm.create_model(name, pretrained=True)
        assert built == ['meta', 'cpu']
        built.clear()
        timm.create_model(name, pretrained=True)
        assert built == ['cpu']
