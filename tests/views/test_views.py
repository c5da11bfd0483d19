"""Where views come from."""

import pytest
import torch
from torch import Tensor

from spadelens.errors import InputError, UnknownNameError
from spadelens.views.view_source import augmented_views, check_count, given_views

SAMPLE = torch.linspace(-1, 1, 24).view(2, 3, 4)


def all_of(batches: object) -> Tensor:
    return torch.cat(list(batches))


@pytest.mark.parametrize("size", [1, 7, 32])
@pytest.mark.parametrize("augmentation", ["noise", "paper", lambda x: x + torch.rand(())])
def test_batches_and_held_out_views(augmentation: object, size: int) -> None:
    source = augmented_views(SAMPLE, augmentation, 17, 4)
    assert (source.num_views, source.num_held_out) == (17, 3)
    assert all(len(batch) <= size for batch in source.batches(size))
    views, held_out = all_of(source.batches(size)), all_of(source.held_out_batches(size))
    assert views.shape == (17, 2, 3, 4) and held_out.shape == (3, 2, 3, 4)
    assert torch.equal(views[0], SAMPLE)
    longer = all_of(augmented_views(SAMPLE, augmentation, 20, 4).batches(9))
    assert torch.equal(longer, torch.cat([views, held_out]))


@pytest.mark.parametrize(("num_views", "num_held_out"), [(1, 1), (8, 1), (9, 2), (256, 32)])
def test_an_eighth_is_held_out(num_views: int, num_held_out: int) -> None:
    source = augmented_views(SAMPLE, "noise", num_views, 0)
    assert (source.num_views, source.num_held_out) == (num_views, num_held_out)


def test_the_sample_alone() -> None:
    source = augmented_views(SAMPLE, "none", 256, 0)
    assert (source.num_views, source.num_held_out) == (1, 0)
    assert torch.equal(all_of(source.batches(5)), SAMPLE[None])
    assert list(source.held_out_batches(5)) == []


def test_given_views_as_tensor_list_and_generator() -> None:
    views = torch.stack([SAMPLE, 2 * SAMPLE, 3 * SAMPLE])
    for given in (views, [views[:2], views[2:]], (views[i : i + 1] for i in range(3)), views.double()):
        source = given_views(SAMPLE, given)
        assert (source.num_views, source.num_held_out, source.description) == (3, 0, "given")
        for _ in range(2):
            assert torch.equal(all_of(source.batches(2)), views)
        assert all_of(source.batches(2)).dtype == SAMPLE.dtype


def test_given_views_are_not_the_users_own_memory() -> None:
    views = torch.stack([SAMPLE, SAMPLE])
    source = given_views(SAMPLE, views)
    for batch in source.batches(2):
        batch.zero_()
    assert torch.equal(views[1], SAMPLE)
    assert torch.equal(all_of(source.batches(2)), views)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], "`views` is empty"),
        (torch.zeros(0, 2, 3, 4), "`views` is empty"),
        (SAMPLE, r"views of shape \[2, 3, 4\].*expected finite floating-point numbers \[B, 2, 3, 4\]"),
        (torch.zeros(1, 2, 3, 5), r"views of shape \[1, 2, 3, 5\]"),
        (torch.zeros(1, 2, 3, 4, dtype=torch.int32), "torch.int32"),
        (torch.full((1, 2, 3, 4), torch.nan), "NaN or infinity"),
        ([torch.zeros(1, 2, 3, 4), None], "NoneType as a batch of views"),
        ("abc", "str as a batch of views"),
        (5, "views"),
    ],
)
def test_given_views_that_do_not_fit(views: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        given_views(SAMPLE, views)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("noise", 0, 0), "num_views=0: expected an integer of at least 1"),
        (("noise", 2.0, 0), "num_views=2.0"),
        (("noise", True, 0), "num_views=True"),
        (("noise", 2, -1), "seed=-1: expected an integer of at least 0"),
        (("noise", 2, 0.5), "seed=0.5"),
        (("noise", 2, None), "seed=None"),
    ],
)
def test_numbers_out_of_range(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        augmented_views(SAMPLE, *arguments)


def test_unknown_augmentations() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown augmentation 'noisy'. Did you mean 'noise'"):
        augmented_views(SAMPLE, "noisy", 4, 0)


def test_huge_seeds() -> None:
    views = {bytes(all_of(augmented_views(SAMPLE, "noise", 2, seed).batches(2)).numpy()) for seed in (0, 2**32, 2**70)}
    assert len(views) == 3


def test_check_count() -> None:
    check_count(3, "x", at_least=3)
    with pytest.raises(InputError, match="x=2"):
        check_count(2, "x", at_least=3)
