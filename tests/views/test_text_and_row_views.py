"""Views of texts and rows: what may change, how often, and that a view depends on its seed alone."""

from __future__ import annotations

import pytest
import torch

from spadelens.errors import InputError, UnknownNameError
from spadelens.extraction.presets import PRESETS, find_preset
from spadelens.views.photo_views import make_views, parse_augmentation
from spadelens.views.row_views import BootstrapViews
from spadelens.views.token_views import TokenViews

TEXT = torch.randn(9, 7, generator=torch.Generator().manual_seed(0)) + 3
SPECIAL = (True, False, False, False, True, False, False, False, True)
ROW = torch.tensor([1.0, 2.0, 3.0, 4.0])
BACKGROUND = torch.tensor([[10.0, 20.0, 30.0, 40.0], [11.0, 21.0, 31.0, 41.0], [12.0, 22.0, 32.0, 42.0]])


def test_tokens_are_masked_and_elements_dropped_as_often_as_said() -> None:
    views = make_views(TokenViews(mask=0.3, dropout=0.2, is_special=SPECIAL), TEXT, 5, 0, 2001)
    assert torch.equal(views[0], TEXT)
    special = torch.tensor(SPECIAL)
    assert torch.equal(views[:, special], TEXT[special].expand(2001, -1, -1))
    others = views[1:, ~special]
    assert bool(((others == 0) | (others == TEXT[~special])).all())
    is_masked = (others == 0).all(-1)
    assert float(is_masked.float().mean()) == pytest.approx(0.3 + 0.7 * 0.2**7, abs=0.015)
    assert float((others[~is_masked] == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    together = (is_masked[:, 0] & is_masked[:, 1]).float().mean()  # tokens are masked independently
    assert float(together) == pytest.approx(0.09, abs=0.025)


def test_a_mask_of_nothing_and_of_everything() -> None:
    assert torch.equal(TokenViews(0.0, 0.0).views(TEXT, [1, 2]), TEXT.expand(2, -1, -1))
    everything = TokenViews(1.0, 0.0, SPECIAL).views(TEXT, [1])[0]
    assert torch.equal(everything, TEXT * torch.tensor(SPECIAL)[:, None])


@pytest.mark.parametrize(
    ("augmentation", "sample"), [(TokenViews(is_special=SPECIAL), TEXT), (BootstrapViews(0.5, BACKGROUND), ROW)]
)
def test_views_depend_on_seed_and_number_alone(augmentation, sample) -> None:
    state = torch.get_rng_state()
    whole = make_views(augmentation, sample, 3, 0, 12)
    parts = torch.cat([make_views(augmentation, sample, 3, start, start + 4) for start in (0, 4, 8)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole[1:], make_views(augmentation, sample, 4, 1, 12))
    assert torch.equal(torch.get_rng_state(), state)
    half = make_views(augmentation, sample.bfloat16(), 3, 0, 12)
    assert half.dtype == torch.bfloat16


def test_columns_are_replaced_by_values_of_other_rows() -> None:
    views = make_views(BootstrapViews(0.4, BACKGROUND), ROW, 1, 1, 3001)
    is_own = views == ROW
    assert float(is_own.float().mean()) == pytest.approx(0.6, abs=0.01)
    for column in range(4):
        values, counts = views[~is_own[:, column], column].unique(return_counts=True)
        assert values.tolist() == BACKGROUND[:, column].tolist()
        assert float(counts.max() / counts.min()) < 1.25
    rows = views - torch.tensor([10.0, 20.0, 30.0, 40.0])  # of columns replaced together, rows are drawn anew for each
    both = ~is_own[:, 0] & ~is_own[:, 1]
    assert float((rows[both, 0] == rows[both, 1]).float().mean()) == pytest.approx(1 / 3, abs=0.07)


def test_specs() -> None:
    assert TokenViews(is_special=SPECIAL).spec() == "tokens"
    assert TokenViews(mask=0.3, is_special=SPECIAL).spec() == "tokens:mask=0.3"
    assert parse_augmentation("tokens:mask=0.3,dropout=0") == TokenViews(0.3, 0.0)
    assert BootstrapViews(0.5, BACKGROUND).spec() == "bootstrap:replaced=0.5"
    parsed = parse_augmentation("bootstrap:replaced=0.5")
    assert isinstance(parsed, BootstrapViews)
    assert (parsed.replaced, parsed.background) == (0.5, None)
    with pytest.raises(UnknownNameError):
        parse_augmentation("token")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenViews(mask=1.5), "Cannot use mask=1.5: expected a number from 0 to 1"),
        (lambda: TokenViews(dropout=float("nan")), "Cannot use dropout=nan"),
        (lambda: parse_augmentation("tokens:is_special=0/1"), "expected True or False for each token"),
        (lambda: TokenViews(is_special=SPECIAL).views(TEXT[:3], [0]), "text of 3: is_special has 9"),
        (lambda: TokenViews().views(ROW, [0]), r"shape \[4\].*expects \[tokens, features\]"),
        (lambda: BootstrapViews(replaced=-1.0), "Cannot use replaced=-1.0"),
        (lambda: BootstrapViews().views(ROW, [0]), "there are no rows to draw from"),
        (lambda: BootstrapViews(0.1, BACKGROUND).views(ROW[:3], [0]), "expected a sample .* with the same features"),
        (lambda: BootstrapViews(0.1, BACKGROUND[:0]), "expected finite numbers"),
        (lambda: BootstrapViews(0.1, BACKGROUND / 0), "expected finite numbers"),
        (lambda: parse_augmentation("bootstrap:background=3"), "expected finite numbers"),
    ],
)
def test_what_does_not_fit_is_refused(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_presets_make_enough_views_of_each_kind() -> None:
    for name, preset in PRESETS.items():
        assert find_preset(name).of("photo") is preset
        text, row = preset.of("text"), preset.of("row")
        assert (text.augmentation, row.augmentation) == ("tokens", "noise")
        assert preset.num_views < text.num_views < row.num_views or preset.num_views == 1024
        assert text.solver == row.solver == preset.solver
