"""What a run decides before its first step, and what it refuses at once."""
import copy
import shutil

import pytest
import timm
import torch
from accelerate import Accelerator

from timm_sbs.common.errors import SbsError
from timm_sbs.training.flat_settings import settings_of
from timm_sbs.training.plan import open_plan


@pytest.fixture()
def planned(resnet8):
    """The plan of a run, after its block."""
    def plan_of(given=None, dry_run=True, **settings):
        with open_plan(settings_of({**resnet8, **settings}), given, dry_run=dry_run) as plan:
            return plan

    return plan_of


@pytest.mark.parametrize('settings, phases', [
    (dict(), ['reconstruction']), (dict(bits=4), ['reconstruction', 'rounding']),
    (dict(bytes='30k'), ['rounding']),
    (dict(data_free='noise', second_order_steps=5), ['reconstruction', 'second_order', 'distillation']),
    (dict(data_free='noise', second_order_steps=5, bits=4, distillation_steps=0),
     ['reconstruction', 'second_order', 'rounding']),
    (dict(data_free='noise', bytes='30k', second_order_steps=5), ['rounding', 'distillation'])])
def test_phases_follow_from_size_and_images(planned, settings, phases):
    plan = planned(**settings)
    assert list(plan.phases) == phases
    assert bool(plan.uses) == bool(settings.get('second_order_steps'))
    if plan.uses:
        assert ('conv1.weight' in plan.uses) == ('bytes' in settings)


def test_networks_whose_weights_are_all_standardized_have_no_second_order(planned):
    keep = ['*attn*', '*fc*', '*downsample*', '*final_conv*']
    plan = planned(timm.create_model('test_nfnet'), model='test_nfnet', initial_checkpoint='', data_free='noise',
                   second_order_steps=3, keep=keep, distillation_steps=0)
    assert list(plan.phases) == ['reconstruction']


@pytest.mark.parametrize('settings, says', [
    (dict(model=''), 'Give --model NAME'), (dict(model='resnet19'), "'resnet19'"),
    (dict(initial_checkpoint='nowhere.pth'), 'nowhere.pth'),
    (dict(pct=0.01), 'parameters are too few'), (dict(min_weights=10 ** 6), 'has no weight to generate'),
    (dict(keep=['nothing.*']), "--keep 'nothing"), (dict(encoding='fourier'), 'encoding'),
    (dict(bytes=1500), '1,500 bytes are too few'), (dict(report_to=['clearml']), '--report-to clearml'),
    (dict(resume='latest', output=None), 'resume needs a folder to write to'),
    (dict(images='/nowhere'), '/nowhere'), (dict(data_dir='/nowhere'), '/nowhere'),
    (dict(data_free='noise', feature_weight=1, feature_modules=['layer7']), "no module 'layer7'")])
def test_what_is_wrong_is_found_at_once_and_leaves_nothing(planned, tmp_path, settings, says):
    with pytest.raises(SbsError, match=says):
        planned(dry_run=False, **{'output': tmp_path / 'out', **settings})
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('network, settings, says', [
    (dict(num_classes=1), dict(label_weight=0.1), 'label_weight needs a network with 2 classes or more'),
    (dict(num_classes=0, global_pool=''), {}, r'returns a tensor of \[1, 64, 8, 8\] for one image'),
    (dict(in_chans=2), {}, 'channels')])
def test_networks_that_cannot_be_fitted_on_images(planned, image_folder, network, settings, says):
    model = timm.create_model('resnet8_cifar10', **network)
    with pytest.raises(SbsError, match=says):
        planned(model, initial_checkpoint='', data_dir=image_folder, batch_size=10, workers=0, **settings)


def test_few_images_and_few_classes_are_refused(planned, tmp_path, image_folder):
    shutil.copytree(image_folder / 'train' / 'cat', tmp_path / 'cats' / 'train' / 'cat')
    images = dict(batch_size=2, workers=0)
    with pytest.raises(SbsError, match='classes.*10'):
        planned(data_dir=tmp_path / 'cats', label_weight=1, **images)
    planned(data_dir=tmp_path / 'cats', **images)  # labels that are not used may be any
    for path in sorted((tmp_path / 'cats').rglob('*.png'))[5:]:
        path.unlink()
    with pytest.raises(SbsError, match='holds 5 training image.* statistics need at least 10'):
        planned(images=tmp_path / 'cats', second_order_steps=5, **images)


def test_an_output_that_cannot_be_written_to(planned, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SbsError, match="--output '.*file/out' cannot be written to"):
        planned(dry_run=False, output=tmp_path / 'file' / 'out')
    planned(output=tmp_path / 'new')
    assert not (tmp_path / 'new').exists()  # nothing is written where nothing is going to be


def test_checkpoints_of_other_weights_or_images_are_not_gone_on_from(planned, tmp_path, image_folder, small_model):
    """What does not change a result may differ, and so may the folder that images lie in."""
    for place, name in (('here', 'photographs'), ('there', 'photographs'), ('other', 'more')):
        (tmp_path / place).mkdir()
        (tmp_path / place / name).symlink_to(image_folder / 'train')
    run = dict(dry_run=False, output=tmp_path / 'out', checkpointing_steps=2, batch_size=8, workers=0)
    plan = planned(images=tmp_path / 'here' / 'photographs', **run)
    plan.checkpoints.save(0, {'phase_index': 0, 'step': 0}, {}, None, {})
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


def test_trackers_and_processes_are_closed_whether_it_works_or_not(resnet8, monkeypatch):
    """A whole program ends its group of processes; a function leaves the caller's alone."""
    ended, end = [], Accelerator.end_training
    monkeypatch.setattr(Accelerator, 'end_training', lambda self: (ended.append(self), end(self)))
    for whole_program in (False, True):
        with pytest.raises(KeyboardInterrupt), open_plan(settings_of(resnet8), whole_program=whole_program):
            raise KeyboardInterrupt
    assert len(ended) == 1


def test_the_original_is_described_by_what_is_proved_of_it(planned, small_model):
    assert 'license' not in planned().original.pretrained_cfg
    plan = planned(license='cc0-1.0', base_model='user/network')
    assert plan.design.base.pretrained_cfg['license'] == 'cc0-1.0'
    assert plan.original.pretrained_cfg['hf_hub_id'] == 'user/network'
    assert torch.equal(plan.original.conv1.weight, small_model.conv1.weight)
