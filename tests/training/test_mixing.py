"""Mixup and cutmix: labels in the proportion of the pixels, the same for the same seed."""

import pytest
import torch
from torch.nn import functional as F

from visionloop_training.config import MixingConfig
from visionloop_training.recipe.mixing import mixed

SIZE = 12


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image i is i all over, of class i, with weight i + 1."""
    values = torch.arange(6.0)
    images = values.view(6, 1, 1, 1).expand(6, 3, SIZE, SIZE)
    return images.contiguous(), F.one_hot(values.long(), 6).float(), values + 1


@pytest.mark.parametrize("config", [MixingConfig(mixup=0.4), MixingConfig(cutmix=1.0)])
def test_labels_and_weights_are_mixed_as_the_pixels_are(config: MixingConfig):
    changed = 0
    for step in range(20):
        images, targets, weights = mixed(config, (0, step, 0), *batch())
        values = torch.arange(6.0)
        shares = targets * weights[:, None] / (values + 1)  # of each image in each of the mixed
        torch.testing.assert_close(images.mean((1, 2, 3)), shares @ values)
        torch.testing.assert_close(shares.sum(1), torch.ones(6))
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
        torch.testing.assert_close(weights, shares @ (values + 1))
        changed += not torch.equal(images, batch()[0])
    assert changed >= 15


def test_an_image_of_no_weight_says_nothing_of_its_label():
    images, targets, weights = batch()
    weights[2] = weights[3] = 0.0
    for step in range(20):
        _, found, mixed_weights = mixed(
            MixingConfig(mixup=0.4), (0, step, 0), images, targets, weights
        )
        assert (found[mixed_weights > 0][:, [2, 3]] == 0).all()
        torch.testing.assert_close(found.sum(1), (mixed_weights > 0).float())


def test_images_of_one_weight_are_mixed_by_the_bit_as_their_labels_are():
    """Weights of 1 leave no rounding behind."""
    inputs, targets = F.one_hot(torch.arange(64)).float().expand(2, 64, 64).clone()
    for step in range(100):
        found = mixed(MixingConfig(mixup=0.4), (0, step, 0), inputs, targets, torch.ones(64))
        assert torch.equal(found[1], found[0])
        assert torch.equal(found[2], torch.ones(64))


def test_cutmix_cuts_and_mixup_blends():
    cut, _, _ = mixed(MixingConfig(cutmix=1.0), (0, 1, 0), *batch())
    assert torch.equal(cut, cut.round())  # each pixel is of one image
    blended, targets, _ = mixed(MixingConfig(mixup=1.0), (0, 1, 0), *batch())
    assert all(len(image.unique()) == 1 for image in blended)
    assert ((targets > 0).sum(1) <= 2).all()


def test_seed_step_and_slice_decide():
    config = MixingConfig(mixup=0.4, cutmix=1.0)
    first = mixed(config, (3, 5, 0), *batch())[0]
    assert torch.equal(first, mixed(config, (3, 5, 0), *batch())[0])
    for other in ((4, 5, 0), (3, 6, 0), (3, 5, 1)):
        assert not torch.equal(first, mixed(config, other, *batch())[0])


def test_a_share_of_the_batches_stays_as_it_was():
    config = MixingConfig(mixup=1.0, share=0.3)
    same = [torch.equal(mixed(config, (0, n, 0), *batch())[0], batch()[0]) for n in range(200)]
    assert 0.6 < sum(same) / 200 < 0.8


def test_activations_of_any_shape_can_be_blended():
    for shape in ((6, 10, 32), (6, 32)):
        inputs = torch.randn(shape)
        found, _, _ = mixed(MixingConfig(mixup=1.0), (0, 0, 0), inputs, *batch()[1:])
        assert found.shape == inputs.shape


def test_several_labels_are_mixed_each_in_its_share():
    """Image i has the classes up to i."""
    images, _, weights = batch()
    targets = torch.ones(6, 6).tril()
    blended, *found = mixed(MixingConfig(mixup=1.0), (0, 1, 0), images, targets, weights)
    for image, row, weight in zip(blended, *found, strict=True):
        shares = torch.linalg.lstsq(targets.T, row * weight).solution / weights  # of the six images
        torch.testing.assert_close(image.mean(), shares @ torch.arange(6.0), atol=1e-4, rtol=1e-4)
