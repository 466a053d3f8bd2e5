"""How a toy model is made: its words, its shape, and what it is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_widgets.analysis import HookedTransformerTrainConfig, train
from tl_widgets.toys.words import word_tokenizer
from tl_widgets.transformer import HookedTransformer


@dataclass(frozen=True)
class Lesson:
    """One stretch of training.

    Attributes
    ----------
    rows
        ``(tokenizer, n_rows, n_pos)`` -> tokens ``[n_rows, n_pos]``.
    n_rows
        How many; each is seen once an epoch.
    settings
        For `HookedTransformerTrainConfig`.
    """

    rows: Callable[[Any, int, int], Tensor]
    n_rows: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Toy:
    """A toy model's vocabulary, the arguments of its `HookedTransformerConfig`, and its lessons in order."""

    words: Sequence[str]
    shape: dict[str, Any]
    lessons: Sequence[Lesson]

    def untrained(self, name: str = "toy") -> HookedTransformer:
        """Return the model with its random weights."""
        # On the CPU, wherever it is made: the same toy everywhere, up to rounding.
        return HookedTransformer(self.shape | dict(model_name=name, seed=0, device="cpu"), word_tokenizer(self.words))

    def train(
        self, name: str = "toy", save_every: int | None = None, save_dir: Path | None = None
    ) -> HookedTransformer:
        """Return the trained model; minutes on two CPU cores.

        Parameters
        ----------
        save_every, save_dir
            Keep checkpoints of each lesson as ``save_dir/lesson-<number>/step-<steps made>``.
        """
        model = self.untrained(name)
        for number, lesson in enumerate(self.lessons, start=1):
            rows = lesson.rows(model.tokenizer, lesson.n_rows, model.cfg.n_ctx)
            saves = dict(save_every=save_every, save_dir=save_dir and save_dir / f"lesson-{number}")
            config = HookedTransformerTrainConfig(**dict(batch_size=64, max_grad_norm=1.0) | lesson.settings | saves)
            train(model, config, [{"tokens": row} for row in rows])
        return model
