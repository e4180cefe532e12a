import pytest
import timm
import torch
from conftest import write_demo_images

from timm_sbs.cli.demo import demo_batches, load_demo_images
from timm_sbs.common.errors import ConfigError, SbsError
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader, sample_loader, train_batches

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()


@pytest.fixture(scope='module')
def image_folder(tmp_path_factory):
    splits = dict.fromkeys(('train', 'validation'), range(0, 500, 10))
    return write_demo_images(tmp_path_factory.mktemp('images'), splits)


def test_validation_images_are_the_originals_and_normalised(image_folder):
    settings = DataSettings(str(image_folder), batch_size=20, workers=0)
    images = torch.cat([x for x, _ in eval_loader(settings, CFG)])
    expected = torch.cat([x for x, _ in demo_batches(load_demo_images(), CFG)])[::10]
    torch.testing.assert_close(images, expected)


def test_without_augmentation_training_images_are_validation_images(image_folder):
    settings = DataSettings(str(image_folder), batch_size=50, workers=0, no_aug=True)
    images, _, indices = next(train_batches(settings, CFG).in_order())
    assert indices.tolist() == list(range(50))
    assert torch.equal(images, next(iter(eval_loader(settings, CFG)))[0])


def test_fewer_images_than_a_batch(image_folder):
    with pytest.raises(SbsError, match='holds 50 images, fewer than one batch of 64 for each of 1 process'):
        train_batches(DataSettings(str(image_folder), batch_size=64, workers=0), CFG)


def test_folders_without_images(tmp_path):
    (tmp_path / 'train' / 'cat').mkdir(parents=True)
    for settings in (DataSettings(str(tmp_path), workers=0), DataSettings(str(tmp_path / 'nowhere'), workers=0)):
        with pytest.raises(SbsError, match="No images could be read from split 'train'"):
            train_batches(settings, CFG)


def test_a_split_that_is_not_there(image_folder):
    """timm itself would take all images of all splits."""
    with pytest.raises(SbsError, match="has no split 'test2', but train and validation. Check --train-split"):
        eval_loader(DataSettings(str(image_folder), val_split='test2', workers=0), CFG)
    assert len(eval_loader(DataSettings(str(image_folder), val_split='val', workers=0), CFG).dataset) == 50
    assert len(eval_loader(DataSettings(str(image_folder / 'train'), workers=0), CFG).dataset) == 50


def test_labels_that_cannot_be_right(image_folder):
    with pytest.raises(SbsError, match="Split 'validation' of '.*' holds 10 classes, but the model has 1000"):
        eval_loader(DataSettings(str(image_folder), workers=0), {**CFG, 'num_classes': 1000})


def test_unknown_dataset_scheme():
    with pytest.raises(SbsError, match="'torch/cifar11 /nowhere'"):
        eval_loader(DataSettings('/nowhere', dataset='torch/cifar11', workers=0), CFG)


def test_unlabelled_folders_add_to_the_training_images(image_folder, tmp_path):
    more = write_demo_images(tmp_path, {'any': range(0, 500, 25)})
    settings = DataSettings(str(image_folder), unlabelled_dirs=(str(more / 'any'),), batch_size=10, workers=0)
    assert len(train_batches(settings, CFG).dataset) == 70 and len(eval_loader(settings, CFG).dataset) == 50
    loader, count = sample_loader(settings, CFG, 1000)
    assert count == 70 and sum(len(x) for x, _ in loader) == 70
    alone = DataSettings(unlabelled_dirs=(str(more / 'any'), str(more / 'any')), batch_size=10, workers=0)
    assert alone.given and not alone.validation and len(train_batches(alone, CFG).dataset) == 40
    labelled = str(validation_alone(image_folder, tmp_path))
    measured = DataSettings(labelled, (str(more / 'any'),), workers=0, batch_size=5)
    assert len(train_batches(measured, CFG).dataset) == 20 and len(eval_loader(measured, CFG).dataset) == 50


def test_subfolders_of_an_unlabelled_folder_mean_nothing(tmp_path):
    folder = write_demo_images(tmp_path, {'train': range(0, 500, 25), 'val': range(1, 500, 50), 'x': range(2, 500, 50)})
    assert len(train_batches(DataSettings(unlabelled_dirs=(str(folder),), batch_size=10, workers=0), CFG).dataset) == 40


def test_an_unlabelled_folder_that_is_none(tmp_path):
    for folder in ('', str(tmp_path / 'nowhere')):
        with pytest.raises(ConfigError, match='--unlabelled-dir .* is no folder'):
            DataSettings(unlabelled_dirs=(folder,))


def test_a_split_that_was_asked_for_is_not_left_out(image_folder):
    settings = DataSettings(str(image_folder), (str(image_folder / 'train'),), train_split='trian', workers=0)
    with pytest.raises(SbsError, match="no split 'trian'"):
        train_batches(settings, CFG)


def validation_alone(image_folder, tmp_path):
    (tmp_path / 'measured').mkdir()
    (tmp_path / 'measured' / 'validation').symlink_to(image_folder / 'validation')
    return tmp_path / 'measured'


def test_an_unlabelled_folder_without_images(image_folder, tmp_path):
    (tmp_path / 'none').mkdir()
    with pytest.raises(SbsError, match='No images could be read'):
        train_batches(DataSettings(str(image_folder), (str(tmp_path / 'none'),), workers=0), CFG)


def test_a_class_map_gives_classes_that_have_no_folder(image_folder, tmp_path):
    names = sorted(path.name for path in (image_folder / 'validation').iterdir())
    (tmp_path / 'classes.txt').write_text('\n'.join(['absent', *names]) + '\n')
    settings = DataSettings(str(image_folder), class_map=str(tmp_path / 'classes.txt'), workers=0, batch_size=50)
    (_, labels), = eval_loader(settings, {**CFG, 'num_classes': 11})
    assert sorted(set(labels.tolist())) == list(range(1, 11))
    with pytest.raises(SbsError, match='names 11 classes, but the model has 10'):
        eval_loader(settings, {**CFG, 'num_classes': 10})
    (tmp_path / 'few.txt').write_text('\n'.join([*names[:8], 'x', 'y']))
    with pytest.raises(SbsError, match=f"does not name '{names[8]}' and 1 others"):
        eval_loader(DataSettings(str(image_folder), class_map=str(tmp_path / 'few.txt'), workers=0), CFG)
    (tmp_path / 'marked.txt').write_text('\n'.join(names), encoding='utf-8-sig')
    (tmp_path / 'gap.txt').write_text('cat\n\ndog\n')
    (tmp_path / 'twice.txt').write_text('cat\ndog\ncat\n')
    for file, says in (('classes.pkl', 'must be a .txt file'), ('no.txt', 'cannot be read'),
                       ('marked.txt', 'begins with a byte order mark'), ('gap.txt', 'line 2 is empty'),
                       ('twice.txt', "line 3 names 'cat' again")):
        with pytest.raises(ConfigError, match=says):
            DataSettings(str(image_folder), class_map=str(tmp_path / file))


def test_settings():
    assert not DataSettings().given and DataSettings(dataset='hfds/x').given
    for wrong in (dict(batch_size=0), dict(image_cache=-1), dict(workers=-1), dict(mixup=-1.),
                  dict(cutmix=1., batch_size=5)):
        with pytest.raises(ConfigError):
            DataSettings(**wrong)


def test_datasets_of_other_schemes(image_folder):
    settings = DataSettings(str(image_folder), dataset='torch/image_folder', batch_size=25, workers=0)
    images, _, indices = next(train_batches(settings, CFG).starting_at(0))
    assert images.shape == (25, 3, 32, 32) and len(set(indices.tolist())) == 25
    assert len(eval_loader(settings, CFG).dataset) == 50


def test_a_data_set_without_a_folder_is_not_looked_for_in_the_current_one(tmp_path, monkeypatch):
    (tmp_path / 'train').mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SbsError, match="No images could be read from split 'validation' of 'torch/cifar10'"):
        eval_loader(DataSettings(dataset='torch/cifar10', val_split='validation'), {'input_size': (3, 32, 32)})


def test_a_class_map_is_for_folders(tmp_path):
    (tmp_path / 'classes.txt').write_text('cat\ndog\n')
    with pytest.raises(ConfigError, match='--class-map is for folders of images: --dataset torch/cifar10 has'):
        DataSettings(str(tmp_path), dataset='torch/cifar10', class_map=str(tmp_path / 'classes.txt'))
