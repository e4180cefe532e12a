"""What a run decides before its first step, and what it refuses at once."""
import copy
import shutil

import pytest
import timm
import torch

from timm_sbs.common.errors import SbsError
from timm_sbs.training import plan
from timm_sbs.training.flat_settings import settings_of
from timm_sbs.training.plan import cpu_has_bf16_units, open_plan, settled_precision


@pytest.fixture()
def planned(resnet8):
    """The plan of a run, after its block."""
    def plan_of(given=None, **settings):
        with open_plan(settings_of({**resnet8, **settings}), given) as plan:
            return plan

    return plan_of


@pytest.mark.parametrize('settings, phases', [
    (dict(), ['reconstruction']), (dict(bits=4), ['reconstruction', 'rounding']),
    (dict(bytes='30k'), ['rounding']),
    (dict(data_free=True, second_order_steps=5), ['reconstruction', 'second_order', 'distillation']),
    (dict(data_free=True, second_order_steps=5, bits=4, distillation_steps=0),
     ['reconstruction', 'second_order', 'rounding']),
    (dict(data_free=True, bytes='30k', second_order_steps=5), ['rounding', 'distillation'])])
def test_phases_follow_from_size_and_images(planned, settings, phases):
    plan = planned(**settings)
    assert list(plan.phases) == phases
    assert bool(plan.uses) == bool(settings.get('second_order_steps'))
    if plan.uses:
        assert ('conv1.weight' in plan.uses) == ('bytes' in settings)


def test_networks_whose_weights_are_all_standardized_have_no_second_order(planned, image_folder):
    keep = ['*attn*', '*fc*', '*downsample*', '*final_conv*']
    plan = planned(timm.create_model('test_nfnet'), model='test_nfnet', initial_checkpoint='', keep=keep,
                   images=image_folder, second_order_steps=3, distillation_steps=0)
    assert list(plan.phases) == ['reconstruction']


@pytest.mark.parametrize('settings, says', [
    (dict(model=''), 'Give --model NAME'), (dict(model='resnet19'), "'resnet19'"),
    (dict(initial_checkpoint='nowhere.pth'), 'nowhere.pth'),
    (dict(pct=0.01), 'parameters are too few'), (dict(min_weights=10 ** 6), 'has no weight to generate'),
    (dict(keep=['nothing.*']), "--keep 'nothing"), (dict(encoding='fourier'), 'encoding'),
    (dict(bytes=1500), '1,500 bytes are too few'), (dict(report_to=['clearml']), '--report-to clearml'),
    (dict(resume='latest', output=None), 'resume needs a folder to write to'),
    (dict(images='/nowhere'), '/nowhere'), (dict(data_dir='/nowhere'), '/nowhere')])
def test_what_is_wrong_is_found_at_once_and_leaves_nothing(planned, tmp_path, settings, says):
    with pytest.raises(SbsError, match=says):
        planned(**{'output': tmp_path / 'out', **settings})
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('network, says', [
    (dict(num_classes=0, global_pool=''), r'returns a tensor of \[1, 64, 8, 8\] for one image'),
    (dict(in_chans=2), 'channels')])
def test_networks_that_cannot_be_fitted_on_images(planned, image_folder, network, says):
    model = timm.create_model('resnet8_cifar10', **network)
    with pytest.raises(SbsError, match=says):
        planned(model, initial_checkpoint='', data_dir=image_folder, batch_size=10, workers=0)


def test_few_images_are_refused_and_few_classes_are_not(planned, tmp_path, image_folder):
    shutil.copytree(image_folder / 'train' / 'cat', tmp_path / 'cats' / 'train' / 'cat')
    images = dict(batch_size=2, workers=0)
    planned(data_dir=tmp_path / 'cats', **images)  # labels are not used, and may be any
    for path in sorted((tmp_path / 'cats').rglob('*.png'))[5:]:
        path.unlink()
    with pytest.raises(SbsError, match='holds 5 training image.* statistics need at least 10'):
        planned(images=tmp_path / 'cats', second_order_steps=5, **images)


def test_checkpoints_of_other_weights_or_images_are_not_gone_on_from(planned, tmp_path, image_folder, small_model):
    """What does not change a result may differ, and so may the folder that images lie in."""
    for place, name in (('here', 'photographs'), ('there', 'photographs'), ('other', 'more')):
        (tmp_path / place).mkdir()
        (tmp_path / place / name).symlink_to(image_folder / 'train')
    run = dict(output=tmp_path / 'out', checkpointing_steps=2, batch_size=8, workers=0)
    plan = planned(images=tmp_path / 'here' / 'photographs', **run)
    plan.checkpoints.save(0, {'phase_index': 0, 'step': 0}, {}, {})
    with pytest.raises(SbsError, match='holds checkpoints of an earlier run'):
        planned(images=tmp_path / 'here' / 'photographs', **run)
    again = {**run, 'resume': 'latest', 'checkpointing_steps': 7, 'license': 'mit'}
    assert planned(images=tmp_path / 'there' / 'photographs', **again).checkpoint.progress['step'] == 0
    with pytest.raises(SbsError, match='was made with images'):
        planned(images=tmp_path / 'other' / 'more', **again)
    other = copy.deepcopy(small_model)
    other.conv1.weight.mul_(2)
    with pytest.raises(SbsError, match='was made with weights of the original'):
        planned(other, images=tmp_path / 'here' / 'photographs', **again)


def test_the_original_is_described_by_what_is_proved_of_it(planned, small_model):
    assert 'license' not in planned().original.pretrained_cfg
    plan = planned(license='cc0-1.0', base_model='user/network')
    assert plan.design.base.pretrained_cfg['license'] == 'cc0-1.0'
    assert plan.original.pretrained_cfg['hf_hub_id'] == 'user/network'
    assert torch.equal(plan.original.conv1.weight, small_model.conv1.weight)


@pytest.fixture()
def device(monkeypatch):
    """Pretend to compute on another one, and that ``accelerate launch`` says nothing."""
    def be(kind, has_units):
        monkeypatch.delenv('ACCELERATE_MIXED_PRECISION', raising=False)
        monkeypatch.setattr(plan.processes(), 'device', torch.device(kind))
        monkeypatch.setattr(plan, 'cpu_has_bf16_units', lambda: has_units)
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: has_units)

    return be


@pytest.mark.parametrize('kind, has_units, expected', [
    ('cpu', True, 'bf16'), ('cpu', False, 'no'), ('cuda', True, 'bf16'), ('cuda', False, 'fp16'), ('mps', True, 'no')])
def test_a_run_computes_in_what_the_device_has_units_for(device, kind, has_units, expected):
    device(kind, has_units)
    assert settled_precision('auto') == expected


def test_what_is_asked_for_or_launched_goes_first(device, monkeypatch):
    device('cpu', True)
    assert settled_precision('no') == 'no'
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'fp16')
    assert settled_precision('auto') == 'fp16' and settled_precision('bf16') == 'bf16'
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'no')  # what accelerate launch says if nobody said anything
    assert settled_precision('auto') == 'bf16'


@pytest.mark.parametrize('found', [(False, False), (True, False), (False, True), None])
def test_units_are_those_that_torch_finds(monkeypatch, found):
    for index, name in enumerate(('_is_avx512_bf16_supported', '_is_amx_tile_supported')):  # what torch calls them
        if found is None:  # a torch that cannot say
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda has=found[index]: has, raising=False)
    assert cpu_has_bf16_units() == any(found or ())
