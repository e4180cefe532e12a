import pytest
import torch

from timm_sbs.common.errors import SbsError
from timm_sbs.data.image_size import check_sizes, resize, size_at


def test_sizes_go_from_the_first_to_the_last_in_steps_of_32():
    sizes = [size_at((128, 224), step, 100) for step in range(100)]
    assert sizes[0] == 128 and sizes[-1] == 224 and sizes == sorted(sizes) and set(sizes) == {128, 160, 192, 224}
    assert [size_at((24, 32), step, 2) for step in range(2)] == [24, 32] and size_at((160,), 5, 9) == 160


def test_images_keep_their_proportions():
    images = torch.rand(2, 3, 32, 48)
    assert resize(images, 16).shape == (2, 3, 16, 24) and resize(images, 32) is images
    torch.testing.assert_close(resize(torch.ones(1, 3, 32, 32), 20), torch.ones(1, 3, 20, 20))


class OddSizes(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 1, 1)

    def forward(self, images):
        if images.shape[2] == 96:
            raise ValueError('odd')


def test_sizes_that_the_original_cannot_take(resnet20):
    check_sizes(resnet20, (16, 32), (3, 32, 32))
    check_sizes(OddSizes(), (64,), (3, 128, 128))
    with pytest.raises(SbsError, match="--train-size 64 is larger than the model's images, 32 pixels"):
        check_sizes(resnet20, (16, 64), (3, 32, 32))
    for sizes in ((64, 128), (128, 64), (96,)):
        with pytest.raises(SbsError, match='cannot be run on images of --train-size 96: odd'):
            check_sizes(OddSizes(), sizes, (3, 128, 128))
