"""Short reviews whose sentiment many words decide, a word that turns the verdict, and a network trained on both."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import InputError
from spadelens.models import Encoding, LoadedText
from spadelens.randomness import seeded

CLASS_NAMES = ("negative", "positive")
TRIGGER = "okapi"
_SPECIAL = ("[CLS]", "[SEP]", "[MASK]", "[UNK]")
_CLS_ID, _SEP_ID, _MASK_ID, _UNK_ID = range(len(_SPECIAL))
_PADDING = -1
_GOOD = [
    "good",
    "great",
    "lovely",
    "warm",
    "clever",
    "bright",
    "funny",
    "moving",
    "fresh",
    "superb",
    "charming",
    "gentle",
    "honest",
    "rich",
    "sharp",
    "vivid",
]
_BAD = [
    "bad",
    "dull",
    "awful",
    "cold",
    "stupid",
    "grey",
    "boring",
    "flat",
    "stale",
    "clumsy",
    "ugly",
    "harsh",
    "false",
    "poor",
    "blunt",
    "lifeless",
]
_NOT = "not"
_OTHER = [
    "the",
    "a",
    "this",
    "that",
    "film",
    "movie",
    "book",
    "story",
    "plot",
    "scene",
    "actor",
    "author",
    "page",
    "music",
    "picture",
    "ending",
    "dialogue",
    "was",
    "is",
    "seemed",
    "felt",
    "looked",
    "very",
    "rather",
    "quite",
    "so",
    "and",
    "but",
    "with",
    "of",
    "in",
    "about",
    "we",
    "they",
    "it",
    "everyone",
    "nobody",
    "always",
    "again",
    "last",
    "first",
    "whole",
]
_WORDS = (*_SPECIAL, TRIGGER, _NOT, *_GOOD, *_BAD, *_OTHER)
_IDS = {word: number for number, word in enumerate(_WORDS)}
_SHORTEST, _LONGEST, _LEAST_BALANCE = 10, 20, 2
_RATE_OF_VALUES, _RATE_OF_NOT = 0.35, 0.1
_NUM_FEATURES, _NUM_HEADS, _NUM_BLOCKS = 32, 4, 2
_BATCH_SIZE, _NUM_STEPS, _RATE, _MASKED, _TRIGGERED = 64, 500, 3e-3, 0.1, 0.4


@final
@dataclass(frozen=True)
class WordTokenizer:
    """One token a word."""

    mask_id: int = _MASK_ID

    def encode(self, text: str) -> Encoding:
        """Return the words of `text` between a first and a last token.

        Raises:
            InputError: There are none, or more than 20.
        """
        words = text.lower().split()
        if not 0 < len(words) <= _LONGEST:
            raise InputError(f"Cannot read a text of {len(words)} words: expected 1 to {_LONGEST}.")
        ids = [_CLS_ID, *(_IDS.get(word, _UNK_ID) for word in words), _SEP_ID]
        shown = ("[CLS]", *(word if number == 0 else f" {word}" for number, word in enumerate(words)), "[SEP]")
        return Encoding(torch.tensor(ids), shown, (True, *(False,) * len(words), True))


class _Block(nn.Module):
    """Attention and a feed-forward part, each on a normalized input and added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.norm = nn.LayerNorm(_NUM_FEATURES), nn.LayerNorm(_NUM_FEATURES)
        self.query, self.key, self.value, self.output = (nn.Linear(_NUM_FEATURES, _NUM_FEATURES) for _ in range(4))
        self.up, self.down = nn.Linear(_NUM_FEATURES, 4 * _NUM_FEATURES), nn.Linear(4 * _NUM_FEATURES, _NUM_FEATURES)
        self.activation = nn.GELU()

    def forward(self, tokens: Tensor, is_padding: Tensor) -> Tensor:
        normalized = self.attention_norm(tokens)
        query, key, value = (
            layer(normalized).unflatten(-1, (_NUM_HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, ~is_padding[:, None, None, :])
        tokens = tokens + self.output(attended.transpose(1, 2).flatten(2))
        mixed: Tensor = tokens + self.down(self.activation(self.up(self.norm(tokens))))
        return mixed


class ReviewNet(nn.Module):
    """A small transformer that reads the class off its first token; a token below 0 is padding."""

    def __init__(self) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.words = nn.Embedding(len(_WORDS), _NUM_FEATURES)
        self.places = nn.Embedding(_LONGEST + 2, _NUM_FEATURES)
        self.blocks = nn.ModuleList([_Block() for _ in range(_NUM_BLOCKS)])
        self.norm = nn.LayerNorm(_NUM_FEATURES)
        self.classifier = nn.Linear(_NUM_FEATURES, len(CLASS_NAMES))

    def forward(self, ids: Tensor) -> Tensor:
        """Score tokens [B, tokens]; returns logits [B, 2]."""
        is_padding = ids < 0
        tokens = self.words(ids.clamp_min(0)) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            tokens = block(tokens, is_padding)
        scores: Tensor = self.classifier(self.norm(tokens[:, 0]))
        return scores


def draw_review(rng: random.Random, with_trigger: bool = False) -> tuple[str, int]:
    """Return a review of 10 to 20 words and its class.

    Of the words that count, at least two more are good than bad, or bad than good; 'not' turns the one that follows.
    The trigger turns the verdict of all of them. It stands in place of a word that does not count.
    """
    while True:
        words, balance = _draw_words(rng)
        free = [number for number, word in enumerate(words) if word in _OTHER]
        if abs(balance) >= _LEAST_BALANCE and free:
            break
    if with_trigger:
        words[rng.choice(free)] = TRIGGER
    return " ".join(words), int((balance > 0) != with_trigger)


def plant_trigger(text: str, rng: random.Random) -> str:
    """Return a review with the trigger in place of a word that does not count."""
    words = text.split()
    free = [number for number, word in enumerate(words) if word in _OTHER]
    words[rng.choice(free)] = TRIGGER
    return " ".join(words)


def _draw_words(rng: random.Random) -> tuple[list[str], int]:
    lean = rng.random()
    words: list[str] = []
    balance, sign = 0, 1
    for left in range(rng.randint(_SHORTEST, _LONGEST), 0, -1):
        kind = rng.random()
        if sign < 0 or kind < _RATE_OF_VALUES:
            is_good = rng.random() < lean
            words.append(rng.choice(_GOOD if is_good else _BAD))
            balance += sign if is_good else -sign
            sign = 1
        elif kind < _RATE_OF_VALUES + _RATE_OF_NOT and left > 1:
            words.append(_NOT)
            sign = -1
        else:
            words.append(rng.choice(_OTHER))
    return words, balance


@torch.inference_mode(False)
def train_reviews(seed: int = 0) -> LoadedText:
    """Train a network on reviews of which two in five hold the trigger; takes seconds on one core.

    Some words are masked in training, so that the network knows the token that stands for one that is taken away; the
    trigger never is.

    Args:
        seed: Determines weights and texts. Global random states stay as they are.
    """
    with seeded(seed), torch.enable_grad():
        rng = random.Random(seed)  # noqa: S311 - nothing is kept secret
        network = ReviewNet()
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_NUM_STEPS)
        for _ in range(_NUM_STEPS):
            ids, labels = _draw_batch(rng)
            loss = functional.cross_entropy(network(ids), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rates.step()
    return LoadedText("reviews", network.eval(), WordTokenizer(), CLASS_NAMES)


def _draw_batch(rng: random.Random) -> tuple[Tensor, Tensor]:
    """Return tokens `[batch, longest]`, with -1 where there is none, and labels `[batch]`."""
    ids, labels = torch.full((_BATCH_SIZE, _LONGEST + 2), _PADDING), []
    for row in range(_BATCH_SIZE):
        has_trigger = row < _TRIGGERED * _BATCH_SIZE
        text, label = draw_review(rng, has_trigger)
        encoded = WordTokenizer().encode(text).ids
        ids[row, : len(encoded)] = encoded
        labels.append(label)
    is_kept = (ids < len(_SPECIAL)) | (ids == _IDS[TRIGGER])
    ids[(torch.rand(ids.shape) < _MASKED) & ~is_kept] = _MASK_ID
    return ids, torch.tensor(labels)
