"""Classifiers of texts of transformers: ids to scores, and tokens as pieces of the text that a person has written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from spadelens.errors import InputError, ModelSpecError
from spadelens.models import Encoding, LoadedText, Tokenizer, load_model

TINY: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "a", "!"]
SPECIAL = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
}


def wordpieces(**settings: Any) -> PreTrainedTokenizerFast:
    raw = RawTokenizer(WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, **{**SPECIAL, **settings})


def bytes_of_texts(**settings: Any) -> PreTrainedTokenizerFast:
    """As GPT-2's, without merges: every token is a byte; without special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(BPE({letter: number for number, letter in enumerate(letters)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, **settings)


def bert(**settings: Any) -> BertForSequenceClassification:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForSequenceClassification(
            BertConfig(**{**TINY, "vocab_size": len(WORDS), "max_position_embeddings": 9, "num_labels": 3, **settings})
        ).eval()


def save(model: Any, tokenizer: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"hf:{folder}"


def load(spec: str) -> LoadedText:
    loaded = load_model(spec, "cpu")
    assert isinstance(loaded, LoadedText)
    return loaded


def test_a_folder(tmp_path: Path) -> None:
    names = {0: "bad", 1: "good", 2: "none"}
    spec = save(bert(id2label=names), wordpieces(), tmp_path)
    before = torch.get_rng_state()
    loaded = load(spec)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.class_names == ("bad", "good", "none")
    assert loaded.class_name(1) == "good"
    assert not any(module.training for module in loaded.model.modules())
    found = loaded.tokenizer.encode("Good films!")
    assert found.ids.dtype == torch.int64
    assert found.ids.tolist() == [2, 5, 7, 8, 10, 3]
    assert found.tokens == ("[CLS]", "Good", " film", "s", "!", "[SEP]")
    assert found.is_special == (True, False, False, False, False, True)
    assert loaded.tokenizer.mask_id == 4
    assert isinstance(loaded.tokenizer, Tokenizer)
    batch = found.ids.repeat(2, 1)
    with torch.no_grad():
        assert torch.equal(loaded.model(batch), bert()(input_ids=batch).logits)


@pytest.mark.parametrize("text", ["  Bad\tFILM ! ", "a", "é good\n\nzzz", "[MASK] a [CLS]", "bad　film", "\u200bgood"])
def test_pieces_are_the_text(tmp_path: Path, text: str) -> None:
    tokenizer = load(save(bert(), wordpieces(), tmp_path)).tokenizer
    found = tokenizer.encode(text)
    assert "".join(token for token, special in zip(found.tokens, found.is_special, strict=True) if not special) == text
    assert found.is_special == (True, *[False] * (len(found.ids) - 2), True)


def test_words_that_are_not_in_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = load(save(bert(), wordpieces(), tmp_path)).tokenizer
    found = tokenizer.encode("good zzz films")
    assert found.tokens == ("[CLS]", "good", " zzz", " film", "s", "[SEP]")
    assert found.is_unknown == (False, False, True, False, False, False)
    assert tokenizer.encode("good films").is_unknown == ()


def test_characters_of_several_tokens(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=256, n_embd=8, n_layer=1, n_head=2, n_positions=16, num_labels=2, pad_token_id=None)
    tokenizer = load(save(GPT2ForSequenceClassification(config), bytes_of_texts(pad_token="a"), tmp_path)).tokenizer
    found = tokenizer.encode("é 😀x")
    assert found.tokens == ("é", "", " ", "😀", "", "", "", "x")
    assert not any(found.is_special)


def test_models_that_score_the_last_token(tmp_path: Path) -> None:
    """A batch gives what its texts give alone, also where the configuration knows no padding."""
    config = GPT2Config(vocab_size=256, n_embd=8, n_layer=1, n_head=2, n_positions=16, num_labels=2, pad_token_id=None)
    loaded = load(save(GPT2ForSequenceClassification(config), bytes_of_texts(unk_token="a"), tmp_path))
    ids = torch.randint(0, 256, (3, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, alone = loaded.model(ids), torch.cat([loaded.model(one.unsqueeze(0)) for one in ids])
        last = ids.clone()
        last[:, -1] = (last[:, -1] + 1) % 256
        assert not torch.allclose(loaded.model(last), together)
    assert together.shape == (3, 2)
    torch.testing.assert_close(together, alone)


def test_encoders_with_decoders(tmp_path: Path) -> None:
    config = T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, num_labels=3, eos_token_id=3)
    config.decoder_start_token_id = 0
    loaded = load(save(T5ForSequenceClassification(config), wordpieces(), tmp_path))
    assert loaded.model(loaded.tokenizer.encode("a good film").ids.unsqueeze(0)).shape == (1, 3)
    assert len(loaded.tokenizer.encode("a " * 200).ids) == 202  # it knows no limit


def test_texts_that_are_too_long(tmp_path: Path) -> None:
    by_tokenizer = load(save(bert(), wordpieces(model_max_length=7), tmp_path / "a")).tokenizer
    by_model = load(save(bert(), wordpieces(), tmp_path / "b")).tokenizer
    for tokenizer, most in ((by_tokenizer, 7), (by_model, 9)):
        assert len(tokenizer.encode("a " * (most - 2)).ids) == most
        with pytest.raises(InputError, match=f"has {most + 1} tokens, including special ones: .* reads at most {most}"):
            tokenizer.encode("a " * (most - 1))


def test_positions_that_begin_after_padding(tmp_path: Path) -> None:
    config = RobertaConfig(**TINY, vocab_size=len(WORDS), max_position_embeddings=9, num_labels=3, pad_token_id=1)
    loaded = load(save(RobertaForSequenceClassification(config), wordpieces(), tmp_path))
    longest = loaded.tokenizer.encode("a " * 5).ids
    assert loaded.model(longest.unsqueeze(0)).shape == (1, 3)
    with pytest.raises(InputError, match="the model reads at most 7"):
        loaded.tokenizer.encode("a " * 6)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_texts_without_a_token(tmp_path: Path, text: str) -> None:
    tokenizer = load(save(bert(), wordpieces(), tmp_path)).tokenizer
    with pytest.raises(InputError, match="without tokens"):
        tokenizer.encode(text)


def test_what_stands_for_a_token_that_is_taken_away(tmp_path: Path) -> None:
    for number, (without, expected) in enumerate(((["mask_token"], 1), (["mask_token", "unk_token"], 0))):
        tokenizer = wordpieces(**dict.fromkeys(without))
        assert load(save(bert(), tokenizer, tmp_path / str(number))).tokenizer.mask_id == expected
    spec = save(bert(), bytes_of_texts(), tmp_path / "none")
    with pytest.raises(ModelSpecError, match="has no token to replace a removed token"):
        load_model(spec, "cpu")


def test_tokenizers_without_places(tmp_path: Path) -> None:
    loaded = load(save(bert(), wordpieces(), tmp_path))

    class Slow:
        is_fast = False

        def __call__(self, text: str, **settings: Any) -> dict[str, Any]:
            assert not settings["return_offsets_mapping"]
            return {"input_ids": [2, 5, 3], "special_tokens_mask": [1, 0, 1]}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [WORDS[token] for token in ids]

    object.__setattr__(loaded.tokenizer, "tokenizer", Slow())
    assert loaded.tokenizer.encode("good").tokens == ("[CLS]", "good", "[SEP]")


def test_half_precision_and_gradients(tmp_path: Path) -> None:
    loaded = load(save(bert().to(torch.bfloat16), wordpieces(), tmp_path))
    assert {value.dtype for value in loaded.model.parameters()} == {torch.bfloat16}
    scores = loaded.model(torch.tensor([[2, 5, 3]]))
    scores.float().sum().backward()
    embedding = loaded.model.get_submodule("classifier.bert.embeddings.word_embeddings").weight
    assert embedding.grad is not None


def test_missing_tokenizers_and_other_uses(tmp_path: Path) -> None:
    spec = save(bert(), wordpieces(), tmp_path)
    with pytest.raises(ModelSpecError, match="expects texts, but a model for photos"):
        load_model(spec, "cpu", kind="photo")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ModelSpecError) as caught:
        load_model(spec, "cpu")
    assert "The tokenizer of 'hf:" in str(caught.value)
    assert "knows no words" in str(caught.value)


def test_encodings_are_not_compared() -> None:
    first, second = (Encoding(torch.tensor([1]), ("a",), (False,)) for _ in range(2))
    assert first != second
