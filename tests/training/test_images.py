"""Fits on pictures: of one channel and others, with some that cannot be read, and of networks with other outputs."""
import shutil

import pytest
import timm
import torch

from timm_sbs.artifact.card import artifact_card
from timm_sbs.common.errors import SbsError
from timm_sbs.training.fit import fit

ROUND = dict(method='rounding', bits=4, mixed_precision='no', workers=0, distillation_steps=0, quiet=True)
DRAWN = dict(statistics_images=40, batch_size=20)


@pytest.fixture()
def network(resnet8):
    def make(**kwargs):
        """A network with the trained weights that it has a place for; a single output is the logit of 'deer'."""
        state = timm.create_model('resnet8_cifar10', checkpoint_path=resnet8[3]).state_dict()
        model = timm.create_model('resnet8_cifar10', **kwargs).eval()
        if kwargs.get('num_classes') == 1:
            state['linear.weight'], state['linear.bias'] = state['linear.weight'][4:5], state['linear.bias'][4:5]
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        fitting = {name: tensor for name, tensor in state.items() if tensor.shape == shapes.get(name)}
        model.load_state_dict(fitting, strict=False)
        return model

    return make


def outputs(model, images):
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.parametrize('settings', [
    dict(bits=2), dict(method='generation', bits=None, reconstruction_steps=10, second_order_steps=3,
                       distillation_steps=2, mixup=0.5)])
def test_agreement_of_one_output_is_that_of_its_sign(network, image_folder, images, settings):
    original = network(num_classes=1)
    artifact = fit(original, **{**ROUND, **settings}, images=image_folder / 'train', statistics_images=50,
                   batch_size=20, holdout_images=200)
    signs = [outputs(model, images[0]) > 0 for model in (original, artifact.create_model())]
    assert artifact.results.holdout_divergence > 0
    agreement = 100 * float((signs[0] == signs[1]).float().mean())
    assert artifact.results.holdout_agreement == pytest.approx(agreement, abs=5)


def test_headless_networks(network, image_folder, images, tmp_path, capsys):
    original = network(num_classes=0)
    artifact = fit(original, **{**ROUND, 'quiet': False}, data_dir=str(image_folder), statistics_images=50,
                   output=tmp_path / 'out')
    expected, found = (outputs(model, images[0][::5]) for model in (original, artifact.create_model()))
    similarity = float(100 * torch.cosine_similarity(expected, found).mean())
    assert artifact.results.agreement == pytest.approx(similarity, abs=0.01) and similarity < 99.999
    assert artifact.results.top1 is None and artifact.results.images == 100
    assert 'no classifier: its features are compared' in capsys.readouterr().out
    card = artifact_card(tmp_path / 'out', 'user/small')
    assert 'cosine similarity' in card and 'same class' not in card


@pytest.mark.parametrize('settings, says', [
    (dict(num_classes=1), '--label-weight needs a network with 2 classes or more'),
    (dict(num_classes=0), '--label-weight needs a network with 2 classes or more'),
    (dict(num_classes=0, global_pool=''), r'returns a tensor of \[1, 64, 8, 8\] for one image'),
    (dict(in_chans=2), 'images of 2 channels, but pictures have 1 or 3')])
def test_what_cannot_be_fitted_on_pictures_is_refused_at_the_start(network, image_folder, tmp_path, settings, says):
    with pytest.raises(SbsError, match=says):
        fit(network(**settings), reconstruction_steps=10 ** 6, data_dir=str(image_folder), label_weight=0.1,
            distillation_steps=1, second_order_steps=0, batch_size=10, workers=0, output=tmp_path / 'out', quiet=True)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('settings, data_free', [
    (dict(in_chans=1), 'inversion'), (dict(in_chans=2), 'noise'), (dict(num_classes=1, in_chans=5), 'inversion'),
    (dict(num_classes=0), 'inversion')])
def test_drawn_images_have_the_channels_of_any_network(network, settings, data_free):
    drawn = dict(synthetic_images=40, synthetic_steps=2) if data_free == 'inversion' else {}
    artifact = fit(network(**settings), **ROUND, **DRAWN, **drawn, data_free=data_free)
    assert artifact.results.statistics_images == 40


def test_files_that_were_skipped_are_told_even_where_a_run_is_quiet(network, image_folder, tmp_path, capsys):
    shutil.copytree(image_folder / 'train' / 'cat', tmp_path / 'cats')
    (tmp_path / 'cats' / '003.png').write_text('no picture')
    (tmp_path / 'cats' / '._001.png').write_text('no picture')
    artifact = fit(network(in_chans=1), **ROUND, images=tmp_path / 'cats', statistics_images=1000)
    assert artifact.results.statistics_images == len(list((tmp_path / 'cats').iterdir())) - 1
    hidden, skipped = capsys.readouterr().out.splitlines()
    assert hidden.startswith('warning: 1 hidden file(s)') and "such as '._001.png'" in hidden
    assert skipped.startswith('warning: 1 file was skipped:') and '003.png' in skipped


def test_a_lost_function_is_told_where_images_were_drawn(resnet20, capsys):
    few = dict(pct=8, reconstruction_steps=2, second_order_steps=1, distillation_steps=0)
    drawn = dict(data_free='inversion', synthetic_images=20, synthetic_steps=2)
    fit(resnet20, **few, **DRAWN, **drawn, workers=0, mixed_precision='no')
    assert 'warning: only ' in capsys.readouterr().out
