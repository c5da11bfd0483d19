"""The fast checksum that says whether a trace still belongs to its model: no plausible edit of weights passes it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spadelens import attribute, extract_trace
from spadelens.errors import TraceMismatchError
from spadelens.extraction.storage import checksum


def swap_columns(weight: Tensor) -> None:
    weight[:, [3, 5]] = weight[:, [5, 3]].clone()


def swap_rows(weight: Tensor) -> None:
    weight[[0, 7]] = weight[[7, 0]].clone()


def swap_neighbors(weight: Tensor) -> None:
    weight[0, [8, 9]] = weight[0, [9, 8]].clone()


def move_columns(weight: Tensor) -> None:
    weight[:, :256] = weight[:, :256].roll(1, 1)


def next_number(weight: Tensor) -> None:
    words = weight[4, 100].view({2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()])
    words += 1  # the last bit


def negate_all(weight: Tensor) -> None:
    weight.neg_()


def negate_two_columns(weight: Tensor) -> None:
    weight[:, [3, 5]] *= -1


def negate_two_rows(weight: Tensor) -> None:
    weight[[2, 3]] *= -1


def change_last(weight: Tensor) -> None:
    weight[-1, -1] += 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(10, 512), (64, 512), (64, 1024), (37, 301)])
@pytest.mark.parametrize(
    "edit",
    [
        swap_columns,
        swap_rows,
        swap_neighbors,
        move_columns,
        next_number,
        negate_all,
        negate_two_columns,
        negate_two_rows,
        change_last,
    ],
)
def test_edits_through_data_are_noticed(
    edit: Callable[[Tensor], None], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0]).to(dtype)
    before = checksum(layer)
    assert checksum(layer) == before
    edit(layer.weight.data)
    assert checksum(layer) != before


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_where_the_weights_lie_in_memory_does_not_matter(offset: int) -> None:
    layer = nn.Linear(512, 64)
    before = checksum(layer)
    memory = torch.zeros(layer.weight.numel() + offset)
    memory[offset:] = layer.weight.detach().flatten()
    layer.weight.data = memory[offset:].view(64, 512)
    assert checksum(layer) == before
    layer.weight.data = layer.weight.data.t().contiguous().t()
    assert checksum(layer) == before


def test_a_trace_is_not_explained_on_a_model_whose_inputs_have_changed_places() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(512, 64)
    model, sample = nn.Sequential(layer, nn.ReLU(), nn.Linear(64, 4)).eval(), torch.randn(512)
    trace = extract_trace(model, sample, schedule=0.7, num_views=3, kind="row")
    swap_columns(layer.weight.data)
    with pytest.raises(TraceMismatchError):
        attribute(trace, sample, "saliency")
