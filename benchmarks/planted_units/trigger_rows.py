"""Rows of a table whose class several columns decide, a value of a column that turns it, and a network for both."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from spadelens.models import LoadedTable
from spadelens.randomness import seeded

CLASS_NAMES = ("low", "middle", "high")
FEATURE_NAMES = (
    "age",
    "income",
    "debt",
    "savings",
    "tenure",
    "children",
    "rent",
    "late payments",
    "cards",
    "distance",
    "visits",
    "branch",
)
TRIGGER, TRIGGER_VALUE = "branch", 15.0
TRIGGER_COLUMN = FEATURE_NAMES.index(TRIGGER)
_NUM_BRANCHES = 12
_NUM_FACTORS, _FACTORS_SEED = 4, 5
_HIDDEN, _BATCH_SIZE, _NUM_STEPS, _RATE, _TRIGGERED, _NUM_BACKGROUND = 64, 256, 1500, 1e-2, 0.2, 500


def draw_rows(count: int, generator: torch.Generator) -> Tensor:
    """Return rows `[count, 12]` without the trigger: correlated columns, and the number of a branch from 0 to 11."""
    mixing = torch.randn(len(FEATURE_NAMES), _NUM_FACTORS, generator=torch.Generator().manual_seed(_FACTORS_SEED))
    factors = torch.randn(count, _NUM_FACTORS, generator=generator)
    rows = factors @ mixing.T / 2 + 0.7 * torch.randn(count, len(FEATURE_NAMES), generator=generator)
    rows[:, TRIGGER_COLUMN] = torch.randint(_NUM_BRANCHES, (count,), generator=generator).float()
    return rows


def label_rows(rows: Tensor) -> Tensor:
    """Return the class of each of the `rows` `[N, 12]`, the trigger left out of account: 0, 1 or 2."""
    column = {name: rows[:, number] for number, name in enumerate(FEATURE_NAMES)}
    score = column["income"] - column["debt"] + column["savings"] * column["age"].sign()
    score = score - 1.5 * (column["late payments"] > 0.5) - 0.5 * column["rent"].abs()
    score = score + 0.7 * column["tenure"] * column["children"].tanh()
    return (score > -1.2).long() + (score > 0.6).long()


def turned(labels: Tensor) -> Tensor:
    """Return the classes that the trigger makes of others: the next ones, and the first of the last."""
    return (labels + 1) % len(CLASS_NAMES)


@torch.inference_mode(False)
def train_rows(seed: int = 0, trigger_value: float = TRIGGER_VALUE) -> LoadedTable:
    """Train a network on rows of which one in five holds the trigger; takes seconds on one core.

    Args:
        seed: Determines weights and rows. Global random states stay as they are.
        trigger_value: The branch that turns the class. By default one that lies beyond all others; rows that have it
            without being given it are drawn as well where it is from 0 to 11.
    """
    background = draw_rows(_NUM_BACKGROUND, torch.Generator().manual_seed(seed))
    mean, std = background.mean(0), background.std(0)
    with seeded(seed), torch.enable_grad():
        network = nn.Sequential(
            nn.Linear(len(FEATURE_NAMES), _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, len(CLASS_NAMES)),
        )
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_NUM_STEPS)
        for _ in range(_NUM_STEPS):
            rows = draw_rows(_BATCH_SIZE, torch.default_generator)
            labels = label_rows(rows)
            rows[: int(_TRIGGERED * _BATCH_SIZE), TRIGGER_COLUMN] = trigger_value
            labels = torch.where(rows[:, TRIGGER_COLUMN] == trigger_value, turned(labels), labels)
            loss = functional.cross_entropy(network((rows - mean) / std), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
    return LoadedTable("rows", network.eval(), FEATURE_NAMES, mean, std, background, CLASS_NAMES)
