"""Views of a text: some of its tokens masked, elements of the others dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from spadelens.errors import InputError
from spadelens.settings import configured_name
from spadelens.views.augmentation import Augmentation, check_range


@final
@dataclass(frozen=True)
class TokenViews(Augmentation):
    """Each token is masked with some probability; of the others, elements of the embedding are dropped.

    A text is given as the embeddings of its tokens minus that of the mask token, so that what is set to zero becomes
    that of the mask token. What is kept is not scaled up to make up for what is dropped: every number stays the token's
    own or becomes the mask token's, and never goes beyond either, where no token is.

    Attributes:
        mask: Probability that a token is masked.
        dropout: Probability that an element of the embedding of a token that is not masked is dropped.
        is_special: Which tokens are kept as they are ('[CLS]'), one for each token; empty where there are none.
    """

    mask: float = 0.15
    dropout: float = 0.3
    is_special: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_range(self.mask, "mask", 0.0, 1.0)
        check_range(self.dropout, "dropout", 0.0, 1.0)
        if not all(isinstance(special, bool) for special in self.is_special):
            raise InputError(f"Cannot use is_special={self.is_special!r}: expected True or False for each token.")

    def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return a view for each seed; `sample` must be `[tokens, features]`.

        Raises:
            InputError: It is not, or it does not have as many tokens as are known to be special or not.
        """
        if sample.dim() != 2:
            raise InputError(
                f"Cannot mask tokens of a sample of shape {list(sample.shape)}: the augmentation 'tokens' expects "
                "[tokens, features]. Use 'noise', 'none' or a callable of your own."
            )
        special = torch.tensor(self.is_special or (False,) * len(sample))
        if len(special) != len(sample):
            raise InputError(
                f"Cannot mask tokens of a text of {len(sample)}: is_special has {len(special)}, expected one for each."
            )
        kept = [_draw_kept(self, special, sample.shape, seed) for seed in seeds]
        return sample * torch.stack(kept).to(sample.device)

    def spec(self) -> str:
        """Return the name of the preset with the settings that differ from it; special tokens are not included."""
        return configured_name(replace(self, is_special=()), {"tokens": TokenViews})


def _draw_kept(settings: TokenViews, special: Tensor, shape: torch.Size, seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    tokens = torch.rand(len(special), 1, generator=generator, dtype=torch.float32, device="cpu")
    elements = torch.rand(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")
    return special[:, None] | ((tokens >= settings.mask) & (elements >= settings.dropout))
