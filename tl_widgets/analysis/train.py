"""Training: a model on rows of tokens, by next-token loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset

from tl_widgets.environment import library
from tl_widgets.errors import BadInput, unknown
from tl_widgets.transformer import HookedTransformer

M = TypeVar("M", bound=HookedTransformer)


@dataclass
class HookedTransformerTrainConfig:
    """How to train a model with `train`.

    Parameters
    ----------
    num_epochs, batch_size
        How often the data set is gone through, and rows a step.
    lr
        Learning rate.
    seed
        Of torch's global generator: the order of the rows.
    momentum
        For SGD.
    max_grad_norm
        Gradients longer than this, all parameters together, are scaled down to it; None leaves them.
    weight_decay
        None is 0. Under Adam it is decoupled from the gradient, as under AdamW (https://arxiv.org/abs/1711.05101).
    optimizer_name
        ``"Adam"``, ``"AdamW"`` or ``"SGD"``.
    device
        Where to move the model first; None trains it where it is.
    warmup_steps
        The learning rate rises linearly from 0 over so many steps.
    save_every, save_dir
        Save the model after every so many steps in ``save_dir/step-<steps made>``, for `from_pretrained` to load.
    wandb, wandb_project_name
        Send the loss to Weights & Biases, which has to be installed.
    print_every
        Print the loss at the first step and after every so many; None is silent.
    max_steps
        End after so many steps in all, however many epochs that is.

    Raises
    ------
    UnknownName
        For another optimizer.
    BadInput
        For a number that cannot be obeyed, and for one of `save_every` and `save_dir` without the other.

    Examples
    --------
    >>> HookedTransformerTrainConfig(num_epochs=1, batch_size=8).lr
    0.001
    """

    num_epochs: int
    batch_size: int
    lr: float = 1e-3
    seed: int = 0
    momentum: float = 0.0
    max_grad_norm: float | None = None
    weight_decay: float | None = None
    optimizer_name: str = "Adam"
    device: str | torch.device | None = None
    warmup_steps: int = 0
    save_every: int | None = None
    save_dir: str | Path | None = None
    wandb: bool = False
    wandb_project_name: str | None = None
    print_every: int | None = 50
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if self.optimizer_name not in OPTIMIZERS:
            raise unknown("optimizer_name", self.optimizer_name, OPTIMIZERS)
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(least, int) and (isinstance(value, bool) or not hasattr(value, "__index__")):
                raise BadInput(f"{name} is a whole number, not {value!r}.")
            if not least <= value <= most:  # which nothing says of NaN
                raise BadInput(f"{name} is at least {least:g}{f' and at most {most:g}' * (most < inf)}, not {value}.")
        if (self.save_every is None) != (self.save_dir is None):
            raise BadInput("save_every and save_dir go together: how often to save, and where.")


# Least and most; of whole numbers where the least is one.
_BOUNDS: dict[str, tuple[float, float]] = {
    "num_epochs": (0, inf),
    "batch_size": (1, inf),
    "lr": (0.0, inf),
    "momentum": (0.0, 1.0),
    "max_grad_norm": (0.0, inf),
    "weight_decay": (0.0, inf),
    "warmup_steps": (0, inf),
    "save_every": (1, inf),
    "print_every": (1, inf),
    "max_steps": (0, inf),
}


def _adam_w(parameters: Any, config: HookedTransformerTrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay or 0.0)


def _sgd(parameters: Any, config: HookedTransformerTrainConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, config.lr, config.momentum, weight_decay=config.weight_decay or 0.0)


# Without decay AdamW is Adam.
OPTIMIZERS: dict[str, Callable[[Any, HookedTransformerTrainConfig], torch.optim.Optimizer]] = {
    "Adam": _adam_w,
    "AdamW": _adam_w,
    "SGD": _sgd,
}


@torch.enable_grad()  # notebooks like to switch gradients off for good
def train(model: M, config: HookedTransformerTrainConfig, dataset: Any) -> M:
    """Train a model in place on the next-token loss; Ctrl-C ends it and keeps what was learned.

    Parameters
    ----------
    model
        A `HookedTransformer`; hooks that it has are at work.
    dataset
        Of torch or of Hugging Face (a plain list will do), with items ``{"tokens": [pos]}`` of one length. Shuffled
        anew at every epoch, unless it is an ``IterableDataset``, which comes as it comes.

    Returns
    -------
    HookedTransformer
        `model` itself.

    Raises
    ------
    BadInput
        For an empty data set, for items without tokens, or of unequal length.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=1, d_model=16, n_ctx=8, d_head=8, attn_only=True, d_vocab=5, seed=0))
    >>> counting = [{"tokens": torch.arange(start, start + 8) % 5} for start in range(5)]
    >>> config = HookedTransformerTrainConfig(num_epochs=40, batch_size=5, lr=0.01, print_every=None)
    >>> model = train(model, config, counting)
    >>> model(torch.tensor([[3, 4, 0, 1]]))[0, -1].argmax()
    tensor(2)
    """
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    loader = _loader(dataset, config)
    run = _wandb_run(config) if config.wandb else None
    torch.manual_seed(config.seed)
    if config.device is not None:
        model.to(config.device)
    model.train()
    device = next(model.parameters()).device
    optimizer = OPTIMIZERS[config.optimizer_name](model.parameters(), config)
    # At the first step of a warmup the rate is zero, as in the field's trainer: Adam's averages begin, nothing moves.
    warmup = LambdaLR(optimizer, lambda made: min(1.0, made / config.warmup_steps) if config.warmup_steps else 1.0)
    batches = islice(((epoch, tokens) for epoch in range(config.num_epochs) for tokens in loader), config.max_steps)
    step = 0
    try:
        with tqdm(batches, total=_count(loader, config), desc="Training", unit="step", leave=False) as bar:
            for step, (epoch, tokens) in enumerate(bar, start=1):
                optimizer.zero_grad()
                loss = model(tokens.to(device), return_type="loss")
                loss.backward()
                if config.max_grad_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                optimizer.step()
                warmup.step()
                if config.print_every and (step == 1 or step % config.print_every == 0):
                    bar.write(f"Epoch {epoch + 1} Step {step} Loss {loss.item():.4f}")
                if run is not None:
                    run.log({"train_loss": loss.item(), "epoch": epoch + 1}, step=step)
                if config.save_every and config.save_dir and step % config.save_every == 0:
                    model.save_pretrained(Path(config.save_dir) / f"step-{step}")
    except KeyboardInterrupt:
        print(f"Stopped in step {step}; the model keeps what it has learned.")
    finally:
        optimizer.zero_grad()
        if run is not None:
            run.finish()
    return model


def _loader(dataset: Any, config: HookedTransformerTrainConfig) -> DataLoader:
    is_stream = isinstance(dataset, IterableDataset)
    if not is_stream and len(dataset) == 0:
        raise BadInput("The data set is empty: there is nothing to train on.")
    return DataLoader(dataset, config.batch_size, shuffle=not is_stream, collate_fn=_batch)


def _batch(items: Sequence[Mapping[str, Any]]) -> Tensor:
    """Items ``{"tokens": [pos]}`` -> ``[batch, pos]``; their other columns are nothing to train on."""
    if "tokens" not in items[0]:
        raise BadInput(f"Items of the data set have no 'tokens' to train on, only {', '.join(map(repr, items[0]))}.")
    rows = [torch.as_tensor(item["tokens"]) for item in items]
    if len({row.shape for row in rows}) > 1:
        raise BadInput(
            f"Rows of one batch have {min(map(len, rows))} to {max(map(len, rows))} tokens: cut or pad them to one "
            "length (utils.tokenize_and_concatenate cuts texts)."
        )
    return torch.stack(rows)


def _count(loader: DataLoader, config: HookedTransformerTrainConfig) -> int | None:
    """How many steps there will be; None for a stream without an end that is known."""
    try:
        steps = len(loader) * config.num_epochs
    except TypeError:
        return config.max_steps
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _wandb_run(config: HookedTransformerTrainConfig) -> Any:
    return library("wandb", "wandb=True").init(project=config.wandb_project_name, config=asdict(config))
