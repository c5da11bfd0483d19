"""A model of texts as a function of embeddings: exact on the text, masked at zero, and the model left as it was."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, nn

from spadelens import Trace, attribute, extract_ensemble, extract_trace
from spadelens.errors import InputError, TraceMismatchError
from spadelens.inputs import EmbeddedText, embed_text
from spadelens.inputs.samples import row_sample
from spadelens.models import Encoding, LoadedTable

VOCABULARY, FEATURES, CLASSES, MASK = 11, 6, 3, 2
IDS = torch.tensor([0, 5, 2, 9, 5, 1, 4])


class Bag(nn.Module):
    """Words and their places, mixed by a layer; positions are numbers that could be those of words."""

    def __init__(self, is_seq_first: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, FEATURES), nn.Embedding(20, FEATURES)
        self.mix, self.out = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, CLASSES)
        self.is_seq_first = is_seq_first
        self.seen: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.seen.append(ids.clone())
        places = torch.arange(ids.shape[1]).repeat(len(ids), 1)
        words = self.words(ids.T).transpose(0, 1) if self.is_seq_first else self.words(ids)
        return self.out(torch.tanh(self.mix(words + self.places(places))).mean(1))


@pytest.fixture
def model() -> Bag:
    torch.manual_seed(0)
    return Bag().eval()


def transformer(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the extra for transformers is not installed")
    sizes = {"vocab_size": 60, "num_labels": CLASSES, "max_position_embeddings": 40, "num_attention_heads": 2}
    usual = {**sizes, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    gpt = {"vocab_size": 60, "num_labels": CLASSES, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
    special = {"pad_token_id": 59, "bos_token_id": 58, "eos_token_id": 58}
    distilled = {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "num_labels": CLASSES}
    config, settings = {
        "Bert": (transformers.BertConfig, usual),
        "Roberta": (transformers.RobertaConfig, usual),
        "DistilBert": (transformers.DistilBertConfig, distilled),
        "Albert": (transformers.AlbertConfig, {**usual, "embedding_size": 8}),
        "GPT2": (transformers.GPT2Config, {**gpt, **special}),
        "XLNet": (
            transformers.XLNetConfig,
            {"vocab_size": 60, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24},
        ),
    }[name]
    torch.manual_seed(1)

    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = getattr(transformers, f"{name}ForSequenceClassification")(config(**settings))

        def forward(self, ids: Tensor) -> Tensor:
            return self.inner(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    return Scores().eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("is_seq_first", [False, True])
def test_the_text_has_exactly_the_scores_of_the_model(dtype: torch.dtype, is_seq_first: bool) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = Bag(is_seq_first).eval().to(dtype)
        with torch.no_grad():
            model.words.weight[MASK] *= 300  # rounding in the difference is then as large as embeddings
            model.words.weight[5] *= 1e-4
        embedded = EmbeddedText(model, IDS, MASK)
        assert embedded.sample.shape == (len(IDS), FEATURES)
        with torch.no_grad():
            batch = torch.stack([embedded.sample, torch.zeros_like(embedded.sample), embedded.sample])
            scores = embedded(batch)
            assert torch.equal(scores[0], model(IDS.repeat(3, 1))[0])
            masked = model(torch.full((3, len(IDS)), MASK))[0]
            assert torch.allclose(scores[1], masked, rtol=0.05 if dtype == torch.bfloat16 else 1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert", "Albert", "GPT2", "XLNet"])
def test_transformers(name: str) -> None:
    model = transformer(name)
    ids = torch.tensor([0, 7, 12, 12, 30, 41, 3])
    embedded = EmbeddedText(model, ids, 4)
    with torch.no_grad():
        assert torch.equal(embedded(embedded.sample.unsqueeze(0)), model(ids.unsqueeze(0)))
        masked = model(torch.full((1, len(ids)), 4))
        assert torch.allclose(embedded(torch.zeros(1, *embedded.sample.shape)), masked, atol=1e-6)


def test_zeroing_a_token_masks_it(model: Bag) -> None:
    embedded = EmbeddedText(model, IDS, MASK)
    for token in range(len(IDS)):
        offsets = embedded.sample.clone()
        offsets[token] = 0
        ids = IDS.clone()
        ids[token] = MASK
        with torch.no_grad():
            assert torch.allclose(embedded(offsets.unsqueeze(0)), model(ids.unsqueeze(0)), atol=1e-6)


def test_gradients_are_those_of_the_embedding(model: Bag) -> None:
    embedded = EmbeddedText(model, IDS, MASK)
    offsets = embedded.sample.unsqueeze(0).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(embedded(offsets)[0, 1], offsets)
    words = model.words.weight[IDS].detach().requires_grad_()
    score = model.out(torch.tanh(model.mix(words + model.places.weight[: len(IDS)])).mean(0))[1]
    (expected,) = torch.autograd.grad(score, words)
    assert torch.allclose(gradient[0], expected, atol=1e-6)


def test_the_model_is_left_as_it_was(model: Bag) -> None:
    before = copy.deepcopy(model.state_dict())
    modules = dict(model.named_modules())
    model.train()
    embedded = EmbeddedText(model, IDS, MASK)
    with pytest.raises(InputError, match=r"text of 7 tokens on a batch of shape \[1, 3, 6\]: expected \[B, 7, 6\]"):
        embedded(torch.zeros(1, 3, FEATURES))
    model.mix.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embedded.eval()(torch.zeros(1, len(IDS), FEATURES))
    assert not model.words._forward_hooks
    assert not model.words._forward_pre_hooks
    assert model.training
    assert dict(model.named_modules()) == modules
    assert list(model.state_dict()) == list(before) == list(embedded.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_whole_model_runs_in_the_mode_of_the_wrapper(model: Bag) -> None:
    modes = []
    embedded = EmbeddedText(model.train(), IDS, MASK).eval()
    model.forward, inner = (lambda ids: (modes.append(model.training), inner(ids))[1]), model.forward  # type: ignore
    embedded(embedded.sample.unsqueeze(0))
    assert modes == [False]
    assert model.training


def test_names_are_those_of_the_model_and_traces_fit_it(model: Bag) -> None:
    sample = embed_text(model, Encoding(IDS, tuple("abcdefg"), (True, *(False,) * 6)), MASK)
    trace = extract_trace(sample.model, sample.values, schedule=0.5)
    assert set(trace.weights) == {"mix", "out"}
    assert [layer.name for layer in trace.report.layers][:2] == ["mix", "out"]
    assert trace.report.settings["augmentation"] == "tokens"
    assert trace.report.settings["num_views"] == 32
    with trace.applied(model), torch.no_grad():
        assert torch.equal(model.mix.weight, trace.weights["mix"])
        sparse = model(IDS.unsqueeze(0))
    independent = trace.sparse_copy()
    with torch.no_grad():
        assert torch.equal(independent(sample.values.unsqueeze(0)), sparse)
        assert not torch.equal(sample.model(sample.values.unsqueeze(0)), sparse)
    values = attribute(trace, sample.values, "integrated_gradients", reduction="sum").values
    assert values.shape == (len(IDS),)


def test_traces_of_texts_are_saved_and_loaded_by_the_model(model: Bag, tmp_path) -> None:
    sample = embed_text(model, Encoding(IDS, tuple("abcdefg"), (False,) * 7), MASK)
    extract_trace(sample.model, sample.values, schedule=0.5).save(tmp_path / "a.safetensors")
    Trace.load(tmp_path / "a.safetensors", model)
    Trace.load(tmp_path / "a.safetensors", sample.model)
    with pytest.raises(TraceMismatchError), torch.no_grad():
        model.mix.weight += 1
        Trace.load(tmp_path / "a.safetensors", model)


def test_special_tokens_are_kept_without_being_asked_for(model: Bag) -> None:
    sample = embed_text(model, Encoding(IDS, tuple("abcdefg"), (True, False, False, False, False, False, True)), MASK)
    seen = []
    model.mix.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    places = model.places.weight[: len(IDS)]
    text = model.words(IDS) + places
    for augmentation in (None, "tokens:mask=0.9,dropout=0"):
        for extract in (extract_trace, extract_ensemble):
            seen.clear()
            extract(sample.model, sample.values, augmentation=augmentation, schedule="auto")
            views = torch.cat(seen)
            is_kept = (views - text).abs().amax(-1) < 1e-5
            num_views = 32 + 4  # of which 4 are held out
            assert int((is_kept[:, 0] & is_kept[:, 6]).sum()) >= num_views
            assert int(is_kept[:, 3].sum()) < num_views


def test_models_without_one_word_embedding_are_refused() -> None:
    class Two(Bag):
        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.mix(self.words(ids) + self.places(ids)).mean(1))

    class OneHot(Bag):
        def forward(self, ids: Tensor) -> Tensor:
            return self.out((nn.functional.one_hot(ids, VOCABULARY).float() @ self.words.weight).mean(1))

    class Summed(Bag):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.EmbeddingBag(VOCABULARY, FEATURES)  # type: ignore[assignment]

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.words(ids))

    with pytest.raises(InputError, match=r"expected one nn.Embedding .*, found 2 \(words, places\)"):
        EmbeddedText(Two(), IDS, MASK)
    for refused in (OneHot, Summed):
        with pytest.raises(InputError, match=r"expected one nn.Embedding that is called on the token ids, found none"):
            EmbeddedText(refused(), IDS, MASK)
    for ids in (IDS.float(), IDS[:0], IDS.unsqueeze(0)):
        with pytest.raises(InputError, match="Cannot embed tokens of shape"):
            EmbeddedText(Bag(), ids, MASK)


def test_texts_of_one_token_and_of_masks(model: Bag) -> None:
    for ids in (torch.tensor([0]), torch.tensor([MASK]), torch.full((4,), MASK), torch.arange(5)):
        embedded = EmbeddedText(model, ids, MASK)
        with torch.no_grad():
            assert torch.equal(embedded(embedded.sample.unsqueeze(0)), model(ids.unsqueeze(0)))
        assert torch.equal(embedded.sample[ids == MASK], torch.zeros_like(embedded.sample[ids == MASK]))


def make_table(background: Tensor | None = None) -> LoadedTable:
    mean, std = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([2.0, 0.5, 1.0])
    return LoadedTable("t", nn.Linear(3, 2).double(), ("a", "b", "c"), mean, std, background, ())


def test_rows_are_standardized_and_keep_their_raw_values() -> None:
    found = row_sample(make_table(), {"c": 7.0, "a": 2.0, "b": -1.0, "other": 5.0})
    assert found.raw.tolist() == [2.0, -1.0, 7.0]
    assert found.values.tolist() == [0.5, 2.0, 7.0]
    assert found.values.dtype == torch.float64
    assert found.augmentation.spec() == "noise"
    assert row_sample(make_table(), [2.0, -1.0, 7.0]).values.tolist() == [0.5, 2.0, 7.0]
    drawn = row_sample(make_table(torch.tensor([[3.0, -2.0, 1.0]])), [2.0, -1.0, 7.0])
    assert drawn.augmentation.spec() == "bootstrap"
    assert drawn.make_augmentation("bootstrap:replaced=1").views(drawn.values, [1])[0].tolist() == [1.0, 0.0, 1.0]
    trace = extract_trace(drawn.model, drawn.values, augmentation=drawn.augmentation, schedule=0.5)
    assert trace.report.settings["num_views"] == 64


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1.0, "b": 2.0}, "without 'c'"),
        ([1.0, 2.0], r"row of shape \[2\]: expected 3 values"),
        ([1.0, float("nan"), 2.0], "whose 'b' is not a finite number"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        row_sample(make_table(), row)  # type: ignore[arg-type]


def test_random_texts_are_exact() -> None:
    rng = random.Random(3)
    for seed in range(20):
        torch.manual_seed(seed)
        model = Bag().eval()
        ids = torch.tensor([rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 12))])
        embedded = EmbeddedText(model, ids, rng.randrange(VOCABULARY))
        with torch.no_grad():
            assert torch.equal(embedded(embedded.sample.unsqueeze(0)), model(ids.unsqueeze(0)))
