"""GGUF files: dequantised once through transformers, then kept as safetensors in the user's cache directory."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import torch

from tl_widgets.errors import CannotLoad

# Part of a kept directory's name: raise it when what is kept changes.
_LAYOUT = "1"
_DONE = "complete"
# What transformers reads a GGUF with.
_READERS = ("gguf", "accelerate")


def cache_directory() -> Path:
    """Return the user's cache directory for this package; ``TL_WIDGETS_CACHE`` in the environment moves it."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("TL_WIDGETS_CACHE") or user_cache_dir("tl_widgets"))


def as_directory(path: Path) -> Path:
    """Return a directory that transformers could have saved, with the config, tokenizer and float32 weights of `path`.

    Made at the first call for a file of this content; whoever comes first wins, a half-made one is never seen.
    """
    kept = cache_directory() / "gguf" / f"{path.stem}-{_digest(path)}-{_LAYOUT}"
    if (kept / _DONE).exists():
        return kept
    missing = [package for package in _READERS if importlib.util.find_spec(package) is None]
    if missing:
        raise CannotLoad(f"Reading a GGUF file needs {' and '.join(missing)}: pip install 'tl_widgets[gguf]'.")
    print(f"Reading {path.name} for the first time (later loads take a second) ...", flush=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{kept.name}-", dir=kept.parent))
    try:
        _dequantise(path, unfinished)
        (unfinished / _DONE).touch()
        unfinished.chmod(0o777 & ~_umask())  # a temporary folder is private, a shared cache directory is not
        if kept.exists() and not (kept / _DONE).exists():
            shutil.rmtree(kept)  # somebody has taken files away
        try:
            unfinished.rename(kept)
        except OSError:
            if not (kept / _DONE).exists():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return kept


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _dequantise(path: Path, folder: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        options = {"gguf_file": path.name, "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
    except Exception as error:  # the reader raises whatever a broken file makes it trip over
        raise CannotLoad(f"{path} could not be read as a GGUF file: {type(error).__name__}: {error}") from error
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:  # tied weights once
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _digest(path: Path) -> str:
    """Return a name for the file's content: the same file in another environment is not dequantised again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()[:16]
