"""A run in progress: which artifact is kept, summary.csv, and what a resumed run knows."""
import json
from contextlib import contextmanager

import pytest
import torch
import yaml
from conftest import rows_of, started

from timm_sbs.artifact.folder import load_artifact
from timm_sbs.common.errors import SbsError
from timm_sbs.training.flat_settings import settings_of
from timm_sbs.training.plan import open_plan
from timm_sbs.training.run import Run


@pytest.fixture()
def run_of(resnet8):
    """A run with some settings, within a block."""
    @contextmanager
    def open_run(**settings):
        with open_plan(settings_of({**resnet8, **settings})) as plan:
            yield Run(plan, {'seed': 3})

    return open_run


@pytest.fixture(scope='module')
def good(small_model):
    """Weights that are rounded to six bits predict nearly all that the original predicts."""
    return started(small_model, None, bytes='70k')


@pytest.fixture(scope='module')
def bad(small_model):
    return started(small_model)


def test_the_artifact_with_the_lowest_divergence_on_held_out_images_is_kept(run_of, tmp_path, image_folder, good, bad):
    with run_of(images=image_folder / 'train', holdout_images=20, batch_size=10, workers=0, output=tmp_path) as run:
        for artifact, when in ((bad, 'first'), (good, 'then'), (bad, 'last')):
            run.consider(artifact, when)
        assert list(run.best.rounded) == list(good.rounded) and run.results['holdout_images'] == 20
        assert all(torch.equal(tensor, good.rounded[name]) for name, tensor in run.best.rounded.items())
        written, divergences = load_artifact(tmp_path), [float(row['holdout_divergence']) for row in rows_of(tmp_path)]
        assert written.results['holdout_divergence'] == divergences[1] < min(divergences[0], divergences[2])
        assert [float(row['best_holdout_divergence']) for row in rows_of(tmp_path)] == [
            divergences[0], divergences[1], divergences[1]]
        run.forget_best()  # what follows is smaller
        run.consider(bad, 'after rounding')
        assert not run.best.rounded
        found = run.far_worse(bad, lambda: good)
        assert found[0] < 50 and found[1] > 90 and run.far_worse(good, lambda: bad) is None


def test_what_does_not_fit_is_kept_only_where_there_is_nothing_else(run_of, good, bad):
    """Without held-out images the last one is kept, and nothing can be looked at."""
    with run_of() as run:
        assert run.far_worse(bad, lambda: good) is None
        run.consider(bad, 'at first', fits=False)
        assert not run.best.rounded
        run.consider(good, 'then')
        assert run.best.rounded
        run.consider(bad, 'at the end', fits=False)
        assert run.best.rounded


def test_what_is_kept_does_not_change_with_the_training(run_of, small_model):
    with run_of() as run:
        artifact = started(small_model)
        run.consider(artifact, 'now')
        before = run.best.generator()
        with torch.no_grad():
            artifact.generator.predictor.heads['9'].bias.add_(1.)
        assert all(torch.equal(weight, before[name]) for name, weight in run.best.generator().items())


def test_a_resumed_run_goes_on_with_rows_results_and_the_best(run_of, tmp_path, bad):
    trained, restored = (torch.nn.Linear(2, 3) for _ in range(2))
    with run_of(output=tmp_path, checkpointing_steps=2) as run:
        run.begin('reconstruction', 0, bad)
        assert run.resume(restored) == 0
        for step in range(1, 4):
            run.log(step, {'loss': 1 / step, 'lr': 0.1})
            if step == 2:
                run.results['reconstruction_error'] = 0.5
                run.consider(bad, 'step 2', step=2)
            run.step_done(step, trained)
        run.add_row({'phase': 'reconstruction', 'step': 3})  # of after the checkpoint
        written = yaml.safe_load((tmp_path / 'settings.yaml').read_text())
        assert written['checkpointing_steps'] == 2 and written['model'] == 'resnet8_cifar10'
    found = []
    with run_of(output=tmp_path, checkpointing_steps=2, resume='latest') as again:
        assert again.results == {'seed': 3, 'reconstruction_error': 0.5}
        again.begin('reconstruction', 0, bad)
        assert again.resume(restored) == 2 and torch.equal(restored.weight, trained.weight)
        assert again.best.results['reconstruction_error'] == 0.5
        again.consider(bad, 'step 4', step=4)
        found = [(row['step'], row['loss']) for row in rows_of(tmp_path)]
        for step in (3, 4):
            again.step_done(step, trained)
        again.begin('distillation', 1, bad)
        assert again.resume(restored) == 0
    assert found == [('2', '0.5'), ('4', '0.5')]  # neither lost nor doubled
    progress = json.loads((tmp_path / 'checkpoints' / 'checkpoint-1-0000004' / 'progress.json').read_text())
    assert (progress['phase'], progress['step']) == ('distillation', 0)
    assert round(again.seconds, 2) >= progress['seconds']


def test_an_output_that_cannot_be_written_to(run_of, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SbsError, match=r"file/out/settings.yaml' could not be written.*Choose another --output"), \
            run_of(output=tmp_path / 'file' / 'out'):
        pass
