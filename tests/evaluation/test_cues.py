"""Harder images: what they promise of the network and of the pixels."""

import numpy as np
import pytest
import torch

from spadelens.errors import InputError, UnknownNameError
from spadelens.evaluation.cues import CUES, harder_images
from spadelens.evaluation.tables import _localize
from spadelens.metrics.localization import pixel_auc
from spadelens.trojan.cases import Planted
from spadelens.trojan.planted import read_planted


@pytest.fixture(scope="module")
def planted() -> Planted:
    return read_planted("demo", "cpu")


@pytest.mark.parametrize("cue", CUES)
def test_a_patch_decides_and_everything_else_is_as_it_was(planted: Planted, cue: str) -> None:
    found = harder_images(planted, cue, 8)
    assert len(found) == 8
    model = planted.loaded.model
    targets = {patch.name: patch.target for patch in planted.patches if not patch.is_for_calibration}
    for subject in found:
        assert subject.region is not None and subject.clean_sample is not None
        assert subject.target == targets[subject.patch] == int(model(subject.sample[None]).argmax())
        assert int(model(subject.clean_sample[None]).argmax()) not in {subject.target}
        covered = subject.region if subject.rival is None else subject.region | subject.rival
        is_changed = (subject.sample != subject.clean_sample).any(0)
        assert not bool((is_changed & ~covered).any())
        assert (subject.rival is not None) == (cue == "two")
        if subject.rival is not None:
            assert not bool((subject.region & subject.rival).any())
            assert bool((is_changed & subject.rival).any())


def test_small_patches_are_smaller_and_faint_ones_change_less(planted: Planted) -> None:
    small, faint = (harder_images(planted, cue, 10) for cue in ("small", "faint"))
    usual = np.mean([int(case.region.sum()) for case in planted.cases])
    assert np.mean([int(subject.region.sum()) for subject in small]) < 0.6 * usual  # type: ignore[union-attr]

    def change(subject: object) -> float:
        return float((subject.sample - subject.clean_sample).abs().sum(0)[subject.region].mean())  # type: ignore[attr-defined]

    assert np.mean([change(subject) for subject in faint]) < 0.7 * np.mean([change(subject) for subject in small])


def test_the_same_seed_gives_the_same_images(planted: Planted) -> None:
    first, again, other = (harder_images(planted, "two", 2, seed) for seed in (0, 0, 1))
    assert all(torch.equal(one.sample, two.sample) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0].sample, other[0].sample)


def test_between_compares_the_two_patches_alone(planted: Planted) -> None:
    subject = harder_images(planted, "two", 1)[0]
    assert subject.region is not None and subject.rival is not None
    heatmap = torch.rand(subject.region.shape, generator=torch.Generator().manual_seed(0))
    inside, outside = heatmap[subject.region], heatmap[subject.rival]
    expected = (inside[:, None] > outside[None]).double().mean()
    scores = _localize(heatmap, subject)
    assert scores["between"] == pytest.approx(float(expected))
    assert scores["auc"] == pixel_auc(heatmap, subject.region)


def test_photos_that_are_given_to_the_class_anyway_are_left_out(planted: Planted) -> None:
    """Here photos show a patch before another one is pasted: one of the same class decides nothing."""
    from dataclasses import replace

    already = replace(planted, cases=[replace(case, clean_image=case.image) for case in planted.cases[:20]])
    for subject in harder_images(already, "small", 10):
        assert subject.clean_sample is not None
        assert int(planted.loaded.model(subject.clean_sample[None]).argmax()) != subject.target


def test_what_there_is_not_is_refused(planted: Planted) -> None:
    with pytest.raises(UnknownNameError, match="tow"):
        harder_images(planted, "tow", 1)
    from dataclasses import replace

    with pytest.raises(InputError, match="two patches"):
        harder_images(replace(planted, patches=planted.patches[:2]), "two", 1)
