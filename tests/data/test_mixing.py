import numpy as np
import torch

from timm_sbs.data.mixing import ImageMixer


def batch():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 0, 3])


def test_a_batch_is_mixed_by_its_number_alone():
    mixer = ImageMixer(1., 1., num_classes=5, seed=3)
    first, again, other = (mixer(*batch(), number)[0] for number in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, batch()[0])
    assert not torch.equal(first, ImageMixer(1., 1., num_classes=5, seed=3, process_index=1)(*batch(), 7)[0])


def test_mixtures_are_of_pairs_and_labels_follow():
    images, labels = ImageMixer(1., 0., num_classes=5)(*batch(), 0)
    share = labels[0, 1]
    torch.testing.assert_close(images[0], share * batch()[0][0] + (1 - share) * batch()[0][3])
    torch.testing.assert_close(labels[0], share * torch.eye(5)[1] + (1 - share) * torch.eye(5)[3])


def test_pasted_rectangles_come_from_the_other_image():
    (images, _), (plain, _) = ImageMixer(0., 1., num_classes=5)(*batch(), 1), batch()
    from_first, from_last = (images[0] == plain[0]).all(0), (images[0] == plain[3]).all(0)
    assert (from_first | from_last).all() and from_last.any()


def test_labels_that_are_not_used_stay_as_they_are():
    for classes in (5, 0):  # 0: a network without a classifier
        mixer = ImageMixer(1., 0., num_classes=classes, labelled=False)
        mixed, labels = mixer(batch()[0], torch.tensor([-1, 99, 7, 3]), 0)
        assert labels.tolist() == [-1, 99, 7, 3]
        assert torch.equal(mixed, ImageMixer(1., 0., num_classes=5)(*batch(), 0)[0])


def test_nothing_else_that_is_drawn_changes():
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    ImageMixer(1., 1., num_classes=5)(*batch(), 0)
    assert np.random.rand() == expected


def test_without_mixing_images_and_labels_stay():
    images, labels = ImageMixer(0., 0., num_classes=5)(*batch(), 0)
    assert torch.equal(images, batch()[0]) and torch.equal(labels, batch()[1])
