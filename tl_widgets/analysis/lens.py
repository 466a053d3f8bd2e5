"""The logit lens: what the model would say if it stopped at each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tl_widgets.analysis.padding import Picked, from_the_end
from tl_widgets.analysis.subject import answer_ids, cache_of
from tl_widgets.environment import library
from tl_widgets.errors import BadInput, BadType, unknown
from tl_widgets.math.slice import SliceInput
from tl_widgets.results import Result, axes_of_positions, position_labels, token_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Numbers of one block of [row, d_vocab] that are at hand at a time.
_AT_A_TIME = 4_000_000
_KEPT = 10


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens:
    """What each layer's residual stream says, read by the model's own final norm and unembedding.

    No hook is at work in that reading: where a hook changed the final norm or the unembedding in the run, the last
    layer is not what the model put out.

    Axes are ``[layer, *batch_and_pos]``, as in the cache, and one more where it says so.

    Attributes
    ----------
    labels
        Names of the layers: ``"0_pre"``, ..., ``"final_post"``, the last of which is the model's own output
        (but for hooks, see above).
    top_tokens, top_probabilities
        ``[layer, *batch_and_pos, k]``: the likeliest tokens' ids, and their probabilities.
    entropy
        Of the distribution over tokens, in nats.
    kl
        How far it is from the model's output: KL(output || layer), in nats.
    probability, rank
        Of each answer, with an axis ``answer`` at the end; rank 0 is the likeliest token. None without answers.
    real
        ``[batch, pos]``: whether there is a token at a position, not padding; None where all are tokens.
    """

    model: Any
    labels: list[str]
    top_tokens: Tensor
    top_probabilities: Tensor
    entropy: Result
    kl: Result
    probability: Result | None = None
    rank: Result | None = None
    real: Tensor | None = None

    def top(self, k: int = 5, layer: str | int = -1, pos: int = -1, example: int = 0) -> list[tuple[str, float]]:
        """Return the `k` likeliest tokens of one layer and position, with their probabilities.

        Of those that were kept, see `logit_lens`. Positions from the end count the prompt's tokens, not its padding.
        """
        if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
            raise BadInput(f"k is how many tokens, 1 or more, not {k!r}; a layer is asked for as layer=.")
        place = self._place(layer, pos, example)
        ids, probabilities = self.top_tokens[place][:k].tolist(), self.top_probabilities[place][:k].tolist()
        return [(token_text(self.model, token), p) for token, p in zip(ids, probabilities, strict=True)]

    def _place(self, layer: str | int, pos: int, example: int) -> tuple[int, ...]:
        if isinstance(layer, str):
            if layer not in self.labels:
                raise unknown("layer", layer, self.labels)
            layer = self.labels.index(layer)
        where = {"layer": layer, "batch": example, "pos": pos}
        for axis, size in zip(self.entropy.axes, self.entropy.values.shape, strict=True):
            if not -size <= where[axis] < size:
                raise BadInput(f"There is no {axis} {where[axis]} here: they go from 0 to {size - 1}.")
        if self.real is not None and pos < 0:
            where["pos"] = int(from_the_end(self.real[[example if "batch" in self.entropy.axes else 0]], pos))
        return tuple(where[axis] for axis in self.entropy.axes)

    def __getitem__(self, label: str | slice | int) -> LogitLens:
        """``lens["5_pre"]``, ``lens[-3:]``: some of the layers."""
        if isinstance(label, (str, int)):
            number = self._place(label, 0, 0)[0]
            label = slice(number, number + 1 or None)
        if not isinstance(label, slice):
            raise BadType(f"A lens is selected by layer, as in lens['0_pre'] or lens[-3:], not by {label!r}.")
        return LogitLens(
            self.model,
            self.labels[label],
            self.top_tokens[label],
            self.top_probabilities[label],
            self.entropy[label],
            self.kl[label],
            None if self.probability is None else self.probability[label],
            None if self.rank is None else self.rank[label],
            self.real,
        )

    def to_dataframe(self) -> Any:
        """Return a pandas table: a row for each layer and position, with its top token and the measures."""
        table = self.entropy.to_dataframe()
        table["KL to the output"] = self.kl.values.flatten().tolist()
        table["top token"] = [token_text(self.model, token) for token in self.top_tokens[..., 0].flatten().tolist()]
        table["top probability"] = self.top_probabilities[..., 0].flatten().tolist()
        for result in (self.probability, self.rank):
            if result is not None:
                columns = result.values.flatten(0, -2).T.tolist()
                for answer, column in zip(result.labels_of("answer"), columns, strict=True):
                    table[f"{result.quantity} of {answer!r}"] = column
        return library("pandas", "to_dataframe").DataFrame(table)

    def plot(self, by: str = "top probability", example: int = 0) -> Figure:
        """Return a figure of layers x positions: the top token in each cell, coloured by a measure.

        Parameters
        ----------
        by
            ``"top probability"``, ``"entropy"``, ``"kl"``, or of the first answer ``"probability"`` or ``"rank"``.
        example
            Which of a batch.
        """
        measure = self._measures().get(by)
        if measure is None:
            raise unknown("measure", by, [name for name, each in self._measures().items() if each is not None])
        tokens = self.top_tokens[..., 0]
        if "batch" in measure.axes:
            measure, tokens = measure[:, example], tokens[:, example]
        if "pos" not in measure.axes:
            return measure.plot()
        return measure.plot(texts=[[token_text(self.model, token) for token in row] for row in tokens.tolist()])

    def _measures(self) -> dict[str, Result | None]:
        top = Result(self.top_probabilities[..., 0], self.entropy.axes, self.entropy.axis_labels, "top probability")
        answers = {"probability": self.probability, "rank": self.rank}
        return {"top probability": top, "entropy": self.entropy, "kl": self.kl} | {
            name: None if result is None else result[..., 0] for name, result in answers.items()
        }

    def __repr__(self) -> str:
        rows = [f"LogitLens: {len(self.labels)} layers, at the last token"]
        for label in self.labels if self.real is None or self.real[0].any() else ():
            said = ", ".join(f"{token!r} {p:.2f}" for token, p in self.top(3, label))
            rows.append(f"  {label:>10}  {said}")
        return "\n".join(rows)


def logit_lens(
    model: Any,
    input: Any = None,
    *,
    answers: Any = None,
    k: int | None = None,
    incl_mid: bool = False,
    pos_slice: SliceInput = None,
    cache: Any = None,
) -> LogitLens:
    """What the model would say after each layer (https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru).

    Parameters
    ----------
    input
        A prompt, prompts or tokens, as for the model itself.
    answers
        Tokens (text or id) whose probability and rank to follow.
    k
        How many of the likeliest tokens to keep; by default 10, or all where there are less.
    incl_mid
        Also between attention and MLP.
    pos_slice
        Which positions to look at; -1 is each prompt's last token, whatever pads it.
    cache
        Of a run, in the place of `input`.

    Returns
    -------
    LogitLens
        Nothing of the size ``[layer, batch, pos, d_vocab]`` is ever formed.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> lens = logit_lens(model, [3, 1, 4], answers=7)
    >>> lens.labels, lens.entropy.axes, lens.probability.values.shape
    (['0_pre', '1_pre', 'final_post'], ('layer', 'batch', 'pos'), torch.Size([3, 1, 3, 1]))
    >>> torch.testing.assert_close(lens.probability.values[-1, ..., 0], model([3, 1, 4]).softmax(-1)[..., 7])
    """
    cache = cache_of(model, input, cache, reads=("hook_resid_pre", "hook_resid_mid", "hook_resid_post"))
    d_vocab = model.cfg.d_vocab_out
    k = min(_KEPT, d_vocab) if k is None else k
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= k <= d_vocab:
        raise BadInput(f"k is a whole number from 1 to {d_vocab}, the number of tokens, not {k!r}.")
    ids, texts = ([], []) if answers is None else answer_ids(model, answers)
    picked = Picked.of(cache, pos_slice)
    stack, labels = cache.accumulated_resid(incl_mid=incl_mid, pos_slice=picked.positions, return_labels=True)
    stack = picked.own_of(stack)
    shape = stack.shape[:-1]
    rows = stack.flatten(1, -2) if stack.ndim > 2 else stack[:, None]  # [layer, row, d_model]
    found = _Found(len(rows), rows.shape[1], k, len(ids), rows.device)
    with torch.no_grad(), model.no_hooks():
        for chunk in torch.arange(rows.shape[1]).split(max(1, _AT_A_TIME // d_vocab)):
            _read(model, rows[:, chunk], ids, chunk, found)

    axes = ("layer", *axes_of_positions(cache, len(shape) - 1))
    axis_labels = {"layer": labels} | (position_labels(cache, shape[-1], pos_slice) if "pos" in axes else {})

    def result(values: Tensor, quantity: str) -> Result:
        return Result(values.reshape(shape), axes, axis_labels, quantity)

    def of_answers(values: Tensor, quantity: str) -> Result | None:
        labelled = axis_labels | {"answer": texts}
        return Result(values.reshape(*shape, -1), (*axes, "answer"), labelled, quantity) if ids else None

    return LogitLens(
        model,
        labels,
        found.top_tokens.reshape(*shape, k),
        found.top_probabilities.reshape(*shape, k),
        result(found.entropy, "entropy (nats)"),
        result(found.kl, "KL to the output (nats)"),
        of_answers(found.probability, "probability"),
        of_answers(found.rank, "rank"),
        picked.real if "pos" in axes else None,
    )


class _Found:
    """What is kept of every layer and row."""

    def __init__(self, n_layers: int, n_rows: int, k: int, n_answers: int, device: torch.device) -> None:
        def empty(*last: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(n_layers, n_rows, *last, dtype=dtype, device=device)

        self.top_tokens = empty(k, dtype=torch.long)
        self.top_probabilities = empty(k)
        self.entropy = empty()
        self.kl = empty()
        self.probability = empty(n_answers)
        self.rank = empty(n_answers, dtype=torch.long)


def _read(model: Any, residuals: Tensor, ids: list[int], rows: Tensor, found: _Found) -> None:
    """Read residual streams ``[layer, row, d_model]``, a layer at a time, beside the last of them."""
    final = _log_probs(model, residuals[-1])
    p_final = final.exp()
    for layer, residual in enumerate(residuals):
        log_probs = final if layer == len(residuals) - 1 else _log_probs(model, residual)
        top = log_probs.topk(found.top_tokens.shape[-1], dim=-1)
        found.top_tokens[layer, rows] = top.indices
        found.top_probabilities[layer, rows] = top.values.exp()
        found.entropy[layer, rows] = -_expected(log_probs.exp(), log_probs)
        found.kl[layer, rows] = _expected(p_final, final) - _expected(p_final, log_probs)
        for i, token in enumerate(ids):
            found.probability[layer, rows, i] = log_probs[:, token].exp()
            found.rank[layer, rows, i] = (log_probs > log_probs[:, token, None]).sum(-1)


def _log_probs(model: Any, residual: Tensor) -> Tensor:
    """``[row, d_model]`` -> ``[row, d_vocab]``."""
    return model.to_logits(model.normalize(residual[None]))[0].float().log_softmax(-1)


def _expected(probabilities: Tensor, values: Tensor) -> Tensor:
    """Mean over tokens; those of probability zero do not count, whatever their value."""
    return (probabilities * values).nan_to_num(nan=0.0).sum(-1)
