"""The sparse classifier: against scikit-learn, and the conditions that a minimum of an elastic net must meet."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.evaluation.sparse_fc import _features, _gradient, _path, sparse_classifier


def problem(count: int = 60, width: int = 7, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(count, width, generator=generator, dtype=torch.float64)
    features = (features - features.mean(0)) / features.std(0)
    weight = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    weight[:, 3:] = 0
    return features, (2 * features @ weight.T).softmax(1)


@pytest.mark.parametrize("mixing", [1.0, 0.99, 0.5])
def test_every_point_of_the_path_is_a_minimum(mixing: float) -> None:
    """Zero lies in the subdifferential: the definition, by which no other implementation is needed."""
    features, wanted = problem()
    path = _path(features, wanted, mixing)
    gradient, _ = _gradient(features, wanted, torch.zeros(3, 7).double(), wanted.mean(0).log())
    largest = float(gradient.abs().max()) / mixing
    penalties = torch.logspace(0, -3, len(path), dtype=torch.float64) * largest
    for penalty, (weight, bias) in zip(penalties.tolist(), path, strict=True):
        by_weight, by_bias = _gradient(features, wanted, weight, bias)
        by_weight = by_weight + penalty * (1 - mixing) * weight
        is_zero = weight == 0
        assert bool((by_weight[is_zero].abs() <= penalty * mixing + 2e-4).all())
        assert torch.allclose(by_weight[~is_zero], -penalty * mixing * weight[~is_zero].sign(), atol=2e-4)
        assert torch.allclose(by_bias, torch.zeros(3).double(), atol=2e-4)
    assert int((path[0][0] != 0).sum()) == 0
    assert int((path[-1][0] != 0).sum()) >= 5


def test_against_scikit_learn() -> None:
    """With one class certain for each image, the loss is that of logistic regression."""
    features, wanted = problem(80)
    labels = wanted.argmax(1)
    certain = nn.functional.one_hot(labels, 3).double()
    path = _path(features, certain, 0.5)
    gradient, _ = _gradient(features, certain, torch.zeros(3, 7).double(), certain.mean(0).log())
    penalty = float(gradient.abs().max()) / 0.5 * float(torch.logspace(0, -3, len(path))[12])
    oracle = LogisticRegression(
        solver="saga", l1_ratio=0.5, C=1 / (penalty * len(features)), max_iter=20_000, tol=1e-8
    ).fit(features.numpy(), labels.numpy())
    ours = (features @ path[12][0].T + path[12][1]).softmax(1).numpy()
    assert np.allclose(ours, oracle.predict_proba(features.numpy()), atol=2e-3)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 12, 3)
        self.classifier = nn.Linear(12, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.features(inputs).relu().mean((2, 3)))


def test_the_classifier_is_sparse_and_says_what_the_network_says() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.classifier.weight *= 30
    images = torch.randn(120, 3, 8, 8) * torch.rand(120, 3, 1, 1) * 3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sparse_classifier(model, images, batch_size=50)
    assert found.layer == "classifier"
    assert found.sparsity > 0.2
    assert found.agreement > 0.7
    held_out = images[90:]
    same = (found.model(held_out).argmax(1) == model(held_out).argmax(1)).double().mean()
    assert float(same) == pytest.approx(found.agreement)
    _, features, scores = _features(model, images, 50)
    standard = (features - features[:90].mean(0)) / features[:90].std(0)
    path = _path(standard[:90], scores[:90].softmax(1), 0.99)
    on_path = [standard @ weight.T + bias for weight, bias in path]
    assert min(float((found.model(images) - logits).detach().abs().max()) for logits in on_path) < 1e-4
    weight = found.model.get_submodule("classifier").weight
    assert float((weight == 0).double().mean()) == pytest.approx(found.sparsity)
    assert torch.equal(found.model.get_submodule("features").weight, model.features.weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_too_few_images_and_other_heads_are_refused() -> None:
    with pytest.raises(InputError, match="8"):
        sparse_classifier(Net(), torch.randn(7, 3, 8, 8))
    with pytest.raises(InputError, match="linear layer"):
        sparse_classifier(nn.Sequential(Net(), nn.Softmax(1)), torch.randn(9, 3, 8, 8))
