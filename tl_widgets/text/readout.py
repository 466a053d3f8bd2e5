"""What a model says, for people: logits as a table, and how it answers a prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_widgets.environment import library
from tl_widgets.errors import BadInput


def logits_to_df(logits: Tensor, tokenizer: Any = None, top_k: int | None = None) -> Any:
    """Logits of one position as a pandas table, likeliest first.

    Parameters
    ----------
    logits
        ``[d_vocab]``.
    tokenizer
        Adds the column ``token_string``.
    top_k
        Keep only the first rows.

    Returns
    -------
    pandas.DataFrame
        ``token_index``, ``token_string``, ``logit``, ``log_prob`` (nats), ``probability``.
    """
    if logits.ndim != 1:
        raise BadInput(f"logits_to_df takes logits of one position [d_vocab], not {list(logits.shape)}.")
    if top_k is not None and top_k < 0:
        raise BadInput(f"top_k is a number of rows, not {top_k}.")
    logits = logits.detach().cpu().double()
    log_probs = logits.log_softmax(-1)
    order = log_probs.argsort(descending=True, stable=True)[:top_k]
    columns: dict[str, Any] = {"token_index": order.numpy()}
    if tokenizer is not None:
        columns["token_string"] = [tokenizer.decode([i]) for i in order.tolist()]
    columns["logit"] = logits[order].numpy()
    columns["log_prob"] = log_probs[order].numpy()
    columns["probability"] = log_probs[order].exp().numpy()
    return library("pandas", "logits_to_df").DataFrame(columns)


def try_prompt(
    prompt: str,
    answer: str | list[str],
    model: Any,
    prepend_space_to_answer: bool = True,
    print_details: bool = True,
    prepend_bos: bool | None = None,
    top_k: int = 10,
) -> None:
    """Print how a model does on a prompt whose answer is known; the field's `test_prompt`.

    Parameters
    ----------
    prompt
        Such as ``"The Eiffel Tower is in the city of"``.
    answer
        One answer, of one token or several (each is judged given those before it); or a list of answers, which
        are compared by their first tokens.
    model
        A `HookedTransformer`.
    prepend_space_to_answer
        Start the answer with a space, unless it does.
    print_details
        Print tokens, logits and the likeliest tokens, not the answer's rank alone.
    prepend_bos
        For the prompt; None is the model's default.
    top_k
        How many of the likeliest tokens to print.
    """
    answers = [answer] if isinstance(answer, str) else list(answer)
    if not isinstance(prompt, str) or not answers:
        raise BadInput(f"test_prompt takes one prompt and at least one answer, not {prompt!r} and {answer!r}.")
    if prepend_space_to_answer:
        answers = [text if text.startswith(" ") else f" {text}" for text in answers]
    prompt_tokens = model.to_tokens(prompt, prepend_bos=prepend_bos)
    answer_tokens = [model.to_tokens(text, prepend_bos=False) for text in answers]
    strings = [model.to_str_tokens(tokens[0]) for tokens in answer_tokens]
    several = len(answers) > 1
    # Several answers are judged by what follows the prompt, one by each of its tokens in turn.
    judged = (
        [[int(tokens[0, 0]) for tokens in answer_tokens]] if several else [[i] for i in answer_tokens[0][0].tolist()]
    )
    with torch.no_grad():
        logits = model(prompt_tokens if several else torch.cat([prompt_tokens, answer_tokens[0][:, :-1]], dim=1))
    logits = logits[0, prompt_tokens.shape[1] - 1 :]

    if print_details:
        print("Tokenized prompt:", model.to_str_tokens(prompt, prepend_bos=prepend_bos))
        print("Tokenized answers:" if several else "Tokenized answer:", strings if several else strings[0])
    ranks = []
    for position, ids in zip(logits, judged, strict=True):
        place = {token: rank for rank, token in enumerate(position.argsort(descending=True).tolist())}
        names = [model.to_single_str_token(i) for i in ids]
        ranks.append([(name, place[i]) for name, i in zip(names, ids, strict=True)])
        if print_details:
            _print_details(model, position, ids, place, "tokens" if several else "token", top_k)
    print("Ranks of the answer tokens:", ranks if several else [rank for (rank,) in ranks])


def _print_details(model: Any, logits: Tensor, ids: list[int], place: dict[int, int], noun: str, top_k: int) -> None:
    probabilities = logits.float().softmax(-1)

    def described(token: int) -> str:
        percent = f"{probabilities[token].item():6.2%}"
        return f"Logit: {logits[token].item():5.2f} Prob: {percent} Token: |{model.to_single_str_token(token)}|"

    print(f"Performance on answer {noun}:")
    for token in ids:
        print(f"Rank: {place[token]:<8} {described(token)}")
    for rank, token in enumerate(list(place)[:top_k]):
        print(f"Top {rank}th token. {described(token)}")
