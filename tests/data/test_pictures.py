"""Every file of a folder is read right, for the channels of the network, or skipped with a count and a reason."""
import gzip
import struct
import tarfile

import numpy as np
import pytest
import timm
import torch
from conftest import write_demo_images
from PIL import Image
from timm.data import IterableImageDataset
from torch.utils.data import DataLoader

from timm_sbs.common.errors import SbsError
from timm_sbs.data.folders import DataSettings
from timm_sbs.data.loaders import eval_loader, held_out_loader, sample_loader, train_batches
from timm_sbs.data.pictures import Pictures, PictureStream, data_config_of, describe_skipped, in_mode, pictures_of

CFG = timm.get_pretrained_cfg('resnet20_cifar10').to_dict()
ONE_CHANNEL = {**CFG, 'input_size': (1, 32, 32)}
GREY = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)


def opened(folder, cfg=CFG, **others):
    return train_batches(DataSettings(str(folder), **{'workers': 0, 'batch_size': 4, 'no_aug': True, **others}), cfg)


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(path)


@pytest.fixture()
def folder(tmp_path):
    """Twenty pictures."""
    for number in range(20):
        picture(tmp_path / 'pictures' / f'{number:02}.png', number)
    return tmp_path / 'pictures'


def damage(folder):
    """Files that no program could read: eight of them."""
    (folder / '00a.png').write_text('no picture')
    (folder / '07empty.png').touch()
    whole = (folder / '03.png').read_bytes()
    (folder / '08truncated.png').write_bytes(whole[:len(whole) // 2])
    (folder / '09nowhere.jpg').symlink_to('/nowhere/at/all.jpg')
    Image.fromarray(GREY.astype(np.float32)).save(folder / '10float.tiff')
    Image.new('1', (20_000, 20_000)).save(folder / '11bomb.png')
    Image.fromarray(GREY.astype(np.int32) << 16).save(folder / '12integers.tiff')
    (folder / '19z.png').write_bytes(whole[:20])


@pytest.mark.parametrize('values', [
    GREY, GREY.astype(np.uint16) * 257, GREY.astype(np.int32) * 257, (GREY / 255).astype(np.float32),
    np.stack([GREY, np.full_like(GREY, 7)], 2)], ids=['L', 'I;16', 'I', 'F', 'LA'])
def test_grey_of_any_depth(values, tmp_path):
    Image.fromarray(values).save(tmp_path / 'a.tiff')
    assert np.array_equal(in_mode(Image.open(tmp_path / 'a.tiff'), 'L'), GREY)
    assert np.array_equal(in_mode(Image.open(tmp_path / 'a.tiff'), 'RGB'), np.stack(3 * [GREY], 2))


def test_numbers_of_32_bits_that_may_be_of_8_are_not_guessed(tmp_path):
    Image.fromarray(GREY.astype(np.int32)).save(tmp_path / 'a.tiff')
    with pytest.raises(ValueError, match='must have 16 bits'):
        in_mode(Image.open(tmp_path / 'a.tiff'), 'L')


def test_files_of_sixteen_bits(tmp_path):
    """Greyscale, big-endian too, and the colours of a TIFF file."""
    deep = GREY.astype(np.uint16) * 257
    for name in ('a.png', 'b.ppm'):
        Image.fromarray(deep).save(tmp_path / name)
    (tmp_path / 'c.tiff').write_bytes(tiff(deep[:, :, None], '>'))
    colours = np.stack([GREY, GREY.T, 255 - GREY], 2)
    (tmp_path / 'd.tiff').write_bytes(tiff(colours.astype(np.uint16) * 257, '<'))
    for name in ('a.png', 'b.ppm', 'c.tiff'):
        assert np.array_equal(in_mode(Image.open(tmp_path / name), 'L'), GREY), name
    assert np.array_equal(in_mode(Image.open(tmp_path / 'd.tiff'), 'RGB'), colours)


def tiff(values, order):
    """An uncompressed file of 16 bits, which PIL cannot write."""
    height, width, channels = values.shape
    data, start = values.astype(f'{order}u2').tobytes(), 8 + 2 + 12 * 9 + 4
    fields = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 16 if channels == 1 else start),
              (259, 3, 1, 1), (262, 3, 1, 1 if channels == 1 else 2), (273, 4, 1, start + 6), (277, 3, 1, channels),
              (278, 3, 1, height), (279, 4, 1, len(data))]
    rows = [struct.pack(f'{order}HHI', *field[:3]) + (
        struct.pack(f'{order}HH', field[3], 0) if field[1] == 3 and field[2] == 1
        else struct.pack(f'{order}I', field[3])) for field in fields]
    return (struct.pack(f'{order}2sHIH', b'II' if order == '<' else b'MM', 42, 8, 9) + b''.join(rows) + bytes(4)
            + struct.pack(f'{order}HHH', 16, 16, 16) + data)


def test_networks_of_one_channel(folder):
    """Colours become grey, everywhere, with the mean of three channels."""
    config = data_config_of(ONE_CHANNEL)
    assert config['mean'] == (pytest.approx(sum(CFG['mean']) / 3),) and len(config['std']) == 1
    settings = DataSettings(str(folder), batch_size=20, workers=0, holdout_images=0)
    images, *_ = next(opened(folder, ONE_CHANNEL, batch_size=20, holdout_images=0).in_order())
    (sample, _), = sample_loader(settings, ONE_CHANNEL, 20)[0]
    first = np.asarray(Image.open(folder / '00.png').convert('L')) / 255
    expected = torch.tensor((first - config['mean'][0]) / config['std'][0], dtype=torch.float32)
    torch.testing.assert_close(images[0, 0], expected)
    assert images.shape == sample.shape == (20, 1, 32, 32)
    for augmentation in ({}, dict(hflip=0.5, crop_padding=0)):
        batches = opened(folder, ONE_CHANNEL, no_aug=False, **augmentation)
        assert next(batches.starting_at(0))[0].shape == (4, 1, 32, 32)


@pytest.mark.parametrize('channels', [2, 4, 5])
def test_channels_that_pictures_do_not_have(folder, channels):
    cfg = {**CFG, 'input_size': (channels, 32, 32)}
    assert len(data_config_of(cfg)['mean']) == channels
    with pytest.raises(SbsError, match=f'images of {channels} channels, but pictures have 1 or 3'):
        opened(folder, cfg)


@pytest.mark.parametrize('channels, cfg', [(1, ONE_CHANNEL), (3, CFG)])
def test_data_sets_of_torchvision(tmp_path, channels, cfg):
    """Greyscale ones, for networks of one channel and of three; and folders with 16 bits."""
    raw = tmp_path / 'MNIST' / 'raw'
    raw.mkdir(parents=True)
    digits, labels = np.random.default_rng(1).integers(0, 256, (10, 28, 28), np.uint8), np.arange(10, dtype=np.uint8)
    for part in ('train', 't10k'):
        for kind, values in (('images-idx3', digits), ('labels-idx1', labels)):
            data = struct.pack(f'>{1 + values.ndim}I', 2048 + values.ndim, *values.shape) + values.tobytes()
            (raw / f'{part}-{kind}-ubyte').write_bytes(data)
            (raw / f'{part}-{kind}-ubyte.gz').write_bytes(gzip.compress(data))
    cfg = {**cfg, 'input_size': (channels, 28, 28), 'mean': (0., 0., 0.), 'std': (1., 1., 1.)}
    (images, found), = eval_loader(
        DataSettings(str(tmp_path), dataset='torch/mnist', val_split='validation', workers=0), cfg)
    assert torch.equal((images * 255).round().byte(), torch.tensor(digits)[:, None].expand(-1, channels, -1, -1))
    assert found.tolist() == labels.tolist()
    for number in range(4):
        path = tmp_path / 'deep' / 'train' / 'any' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[number].astype(np.uint16) * 257).save(path)
    images, *_ = next(opened(tmp_path / 'deep', cfg, dataset='torch/image_folder', holdout_images=0).in_order())
    assert torch.equal((images * 255).round().byte(), torch.tensor(digits[:4])[:, None].expand(-1, channels, -1, -1))


@pytest.mark.parametrize('cache', [0, 1_000_000_000])
@pytest.mark.parametrize('workers', [0, 2])
def test_what_cannot_be_read_is_replaced_by_the_next(folder, workers, cache):
    whole = torch.cat([images for images, *_ in opened(folder).in_order()])
    damage(folder)
    batches = opened(folder, workers=workers, image_cache=cache)
    images = torch.cat([images for images, *_ in batches.in_order()])
    names = sorted(path.name for path in folder.iterdir())
    good = [name for name in names if name[:-4].isdigit()]
    following = [next(name for name in [*names[place:], *names] if name in good) for place in range(len(names))]
    assert torch.equal(images, whole[[good.index(name) for name in following]])
    assert torch.equal(images, torch.cat([again for again, *_ in batches.in_order()]))
    told = describe_skipped([batches, batches])
    assert told.startswith(f"8 files were skipped, the first of them '{folder / '00a.png'}', because it is no image")


def test_files_that_other_processes_could_not_read_count_once(folder):
    damage(folder)
    batches = opened(folder)
    list(batches.in_order())
    others = [('elsewhere.png', 0, 3), (str(folder / '00a.png'), 0, 0)]
    assert describe_skipped([batches], lambda mine: [*mine, *others]).startswith('9 files were skipped')
    assert describe_skipped([None]) is None


def test_held_out_images_take_no_place_of_those_that_are_trained_on(folder):
    """Nor the other way round: a part is filled up from itself."""
    for number in range(0, 20, 3):
        (folder / f'{number:02}.png').write_text('no picture')
    settings = DataSettings(str(folder), workers=0, batch_size=4, no_aug=True, holdout_images=6)
    training = {image.numpy().tobytes() for images, *_ in train_batches(settings, CFG).in_order() for image in images}
    held_out = {image.numpy().tobytes() for images, _ in held_out_loader(settings, CFG).batches for image in images}
    assert training and held_out and not training & held_out


def test_a_folder_of_which_most_cannot_be_read(folder):
    for number in range(11):
        (folder / f'{number:02}.png').write_text('no picture')
    with pytest.raises(SbsError, match="Of 20 pictures in .*, 11 cannot be read. .*'.*00.png', because it is no image"):
        opened(folder)


def test_hidden_files_are_neither_pictures_nor_classes(image_folder, tmp_path):
    """As macOS, editors and notebooks write them."""
    root = write_demo_images(tmp_path, {'validation': range(0, 500, 5)})
    (root / 'validation' / 'cat' / '._005.png').write_bytes(b'Mac OS X')
    picture(root / 'validation' / '.ipynb_checkpoints' / '000-checkpoint.png')
    names = sorted(path.name for path in (image_folder / 'validation').iterdir())
    (tmp_path / 'classes.txt').write_text('\n'.join(names))
    expected = eval_loader(DataSettings(str(image_folder), workers=0), CFG)
    for others in ({}, {'dataset': 'torch/image_folder', 'val_split': 'validation'},
                   {'class_map': str(tmp_path / 'classes.txt')}):
        found = eval_loader(DataSettings(str(root), workers=0, **others), CFG)
        for part, other in zip(expected, found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(part, other))
        hidden = 1 if 'class_map' in others else 2
        assert pictures_of(found).notes[0].startswith(f'{hidden} hidden file(s) in split')
        assert describe_skipped([found]) is None


def test_hidden_files_of_a_tar_file(folder, tmp_path):
    (folder / '._00.png').write_bytes(b'Mac OS X')
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        tar.add(folder, './cat')
    batches = opened(tmp_path / 'a.tar', holdout_images=0)
    assert len(batches.dataset) == 20 and "such as './cat/._00.png'" in pictures_of(batches).notes[0]
    assert torch.equal(next(batches.in_order())[0], next(opened(folder, holdout_images=0).in_order())[0])


def test_a_folder_of_hidden_files(tmp_path):
    picture(tmp_path / 'train' / 'cat' / '._a.png')
    with pytest.raises(SbsError, match="holds no images. 1 hidden file\\(s\\) .* such as 'cat/._a.png'"):
        opened(tmp_path)


@pytest.mark.parametrize('odd, says', [
    (lambda number: Image.new('RGB', (32, 32), (number, 9, 9)), 'of one colour'),
    (lambda number: Image.fromarray(GREY), 'equal to others')])
def test_pictures_that_teach_nothing(folder, odd, says):
    for number in range(20):
        assert not pictures_of(opened(folder)).notes or number > 1
        odd(number).save(folder / f'{number:02}.png')
        if number in (2, 17):
            assert any(note.endswith(f'are {says}.') for note in pictures_of(opened(folder)).notes)
    with pytest.raises(SbsError, match=f'All of 20 pictures .* are {says}'):
        opened(folder)


def test_streams_leave_out_what_cannot_be_read():
    items = [(Image.fromarray(GREY.astype(np.uint16) * 257), 0), (Image.fromarray(GREY.astype(np.float32)), 1),
             (Image.fromarray(GREY), 2)]
    stream = PictureStream(IterableImageDataset(None, reader=items), 3)
    stream.transform = lambda image: torch.tensor(np.asarray(image))
    for workers in (0, 1):
        found = list(DataLoader(stream, None, num_workers=workers))
        assert [label for _, label in found] == [0, 2] and torch.equal(found[0][0], found[1][0])
    assert describe_skipped([stream]).startswith('2 files were skipped, the first of them') and \
        'floating-point values' in describe_skipped([stream])


def test_reading_goes_on_in_spawned_processes(folder):
    damage(folder)
    pictures = Pictures([[(Image.fromarray(GREY), 3), (Image.fromarray(GREY.astype(np.float32)), 4)]], 1)
    pictures.transform = np.asarray
    found = [label for _, label in DataLoader(pictures, None, num_workers=1, multiprocessing_context='spawn')]
    assert found == [3, 3] and len(pictures.skipped()) == 1
