"""Caches as files: safetensors, with what else there is to know as metadata."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput, CannotLoad

FORMAT = "tl_widgets activation cache 1"
# Told apart from an activation's name by the slash.
_TOKENS, _MASK = "/tokens", "/mask"
# What has to agree for a model to make sense of a cache.
_SHAPE = (
    "n_layers",
    "n_heads",
    "n_key_value_heads",
    "d_model",
    "d_head",
    "d_mlp",
    "d_vocab",
    "normalization_type",
    "positional_embedding_type",
)


@dataclass(frozen=True)
class Saved:
    """What a cache's file holds.

    Attributes
    ----------
    kind
        Which class writes and reads it.
    activations
        By their full names.
    about
        What that class needs beside them; plain JSON.
    """

    kind: str
    activations: dict[str, Tensor]
    has_batch_dim: bool
    tokens: Tensor | None
    mask: Tensor | None
    about: dict[str, Any]


def write(saved: Saved, model: Any, path: str | os.PathLike[str]) -> None:
    """Write a cache of `model` to the file `path`: all of it or nothing."""
    from safetensors.torch import save_file

    path = Path(path).expanduser()
    if path.is_dir():
        raise BadInput(f"{path} is a directory: give the name of a file in it.")
    if not path.parent.is_dir():
        raise BadInput(f"{path} cannot be written: there is no directory {path.parent}.")
    beside = {_TOKENS: saved.tokens, _MASK: saved.mask}
    tensors = saved.activations | {name: tensor for name, tensor in beside.items() if tensor is not None}
    metadata = {
        "format": FORMAT,
        "kind": saved.kind,
        "model": str(model.cfg.model_name),
        "shape": json.dumps(_shape_of(model)),
        "has_batch_dim": json.dumps(saved.has_batch_dim),
        "about": json.dumps(saved.about),
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(_apart(tensors), partial, metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | os.PathLike[str], model: Any) -> Saved:
    """Read what `write` wrote.

    Raises
    ------
    CannotLoad
        If the file is no cache, or not a whole one, or of a model of another shape.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if not path.is_file():
        raise CannotLoad(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if _is_ours(metadata) else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CannotLoad(f"{path} is not a whole safetensors file: {error}") from error
    if not _is_ours(metadata):
        said = f"says it is {metadata['format']!r}" if "format" in metadata else "does not say what it is"
        raise CannotLoad(f"{path} is no activation cache: it {said}. cache.save(path) writes one.")
    shape = json.loads(metadata["shape"])
    for name, size in _shape_of(model).items():
        if shape.get(name) != size:
            raise CannotLoad(
                f"{path} holds activations of {metadata['model']} with {name}={shape.get(name)}, but this model "
                f"({model.cfg.model_name}) has {name}={size}."
            )
    return Saved(
        metadata["kind"],
        {name: tensor for name, tensor in tensors.items() if name not in (_TOKENS, _MASK)},
        json.loads(metadata["has_batch_dim"]),
        tensors.get(_TOKENS),
        tensors.get(_MASK),
        json.loads(metadata["about"]),
    )


_NEEDED = {"kind", "model", "shape", "has_batch_dim", "about"}


def _is_ours(metadata: dict[str, str]) -> bool:
    return metadata.get("format") == FORMAT and metadata.keys() >= _NEEDED


def _shape_of(model: Any) -> dict[str, Any]:
    return {name: getattr(model.cfg, name, None) for name in _SHAPE}


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory: the file format knows no views."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        is_alone = tensor.is_contiguous() and storage.data_ptr() not in seen and tensor.nbytes == storage.nbytes()
        seen.add(storage.data_ptr())
        apart[name] = tensor if is_alone else tensor.clone(memory_format=torch.contiguous_format)
    return apart
