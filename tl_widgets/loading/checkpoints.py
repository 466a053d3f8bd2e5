"""Checkpoints of training runs that a hub keeps as revisions: which there are, and which one is meant."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

from tl_widgets.errors import BadInput, BadType, IndexOutside, unknown
from tl_widgets.loading import names


@dataclass(frozen=True)
class Run:
    """The checkpoints of a training run.

    Attributes
    ----------
    models
        Matches the hub ids of the models that were trained so.
    values
        Where checkpoints were taken, in ascending order.
    revision
        A revision's name, with ``{}`` for the value.
    label_type
        What the values count: ``"step"``.
    """

    models: re.Pattern[str]
    values: tuple[int, ...]
    revision: str
    label_type: str = "step"


_EVERY_THOUSAND = tuple(range(1000, 144_000, 1000))
RUNS = (
    Run(re.compile(r"EleutherAI/pythia-.*-v0"), _EVERY_THOUSAND, "step{}"),
    Run(re.compile(r"EleutherAI/pythia-.*"), (0, *(2**k for k in range(10)), *_EVERY_THOUSAND), "step{}"),
    Run(
        re.compile(r"stanford-crfm/.*"),
        (
            *range(0, 100, 10),
            *range(100, 2000, 50),
            *range(2000, 20_000, 100),
            *range(20_000, 400_001, 1000),
        ),
        "checkpoint-{}",
    ),
)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: where in the run it stands, and the hub's revision that holds it."""

    index: int
    value: int
    label_type: str
    revision: str


def get_checkpoint_labels(model_name: str) -> tuple[list[int], str]:
    """Where checkpoints of a model were taken, and what these numbers count.

    Examples
    --------
    >>> values, label_type = get_checkpoint_labels("stanford-gpt2-small-a")
    >>> values[:3], values[-1], label_type
    ([0, 10, 20], 400000, 'step')
    """
    run = _run_of(model_name)
    return list(run.values), run.label_type


def find_checkpoint(
    model_name: str, index: int | None = None, value: int | None = None, label: str | None = None
) -> Checkpoint | None:
    """Return the checkpoint that one of index, value and label (a revision's name) stands for; None for none of them.

    Raises
    ------
    BadInput
        For more than one of them, a model without checkpoints, or a value where there is none.

    Examples
    --------
    >>> find_checkpoint("EleutherAI/pythia-70m", value=512).revision
    'step512'
    """
    given = {"checkpoint_index": index, "checkpoint_value": value, "checkpoint_label": label}
    given = {name: x for name, x in given.items() if x is not None}
    if not given:
        return None
    if len(given) > 1:
        raise BadInput(f"One of {' and '.join(given)} says which checkpoint is meant; leave the others out.")
    (name, x), run = next(iter(given.items())), _run_of(model_name)
    if isinstance(x, bool) or not isinstance(x, str if label is not None else int):
        raise BadType(f"{name} is a {'string' if label is not None else 'whole number'}, not {x!r}.")
    if label is not None:
        labels = [run.revision.format(step) for step in run.values]
        if label not in labels:
            raise unknown("checkpoint_label", label, labels)
        index = labels.index(label)
    elif value is not None:
        index = bisect.bisect_left(run.values, value)
        if index == len(run.values) or run.values[index] != value:
            near = " and ".join(map(str, run.values[max(index - 1, 0) : index + 1]))
            raise BadInput(
                f"{model_name} has no checkpoint at {run.label_type} {value}; the nearest: {near}. There are "
                f"{len(run.values)}, from {run.values[0]} to {run.values[-1]}."
            )
    return _at(run, index, model_name)  # type: ignore[arg-type]  # by now every way leads to an index


def _at(run: Run, index: int, model_name: str) -> Checkpoint:
    n = len(run.values)
    if not -n <= index < n:
        raise IndexOutside(f"checkpoint_index is 0 to {n - 1} for {model_name} (or from -{n}, the first), not {index}.")
    value = run.values[index]
    return Checkpoint(index % n, value, run.label_type, run.revision.format(value))


def _run_of(model_name: str) -> Run:
    hub_id = names.hub_id_of(model_name) or model_name
    for run in RUNS:
        if run.models.fullmatch(hub_id):
            return run
    raise BadInput(
        f"No checkpoints of {model_name!r} are known here: there are some of Pythia and of Stanford CRFM's GPT-2 on "
        "the hub. A hub's revision= leads to any other; a local directory or file holds one set of weights."
    )
