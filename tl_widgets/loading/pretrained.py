"""`from_pretrained`: a model by name, directory, file or object, its weights filled in and processed; and back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import torch

from tl_widgets.config import as_dtype
from tl_widgets.errors import BadInput
from tl_widgets.loading.checkpoints import find_checkpoint
from tl_widgets.loading.families import saved
from tl_widgets.loading.load import config_of, fill_
from tl_widgets.loading.processing import process_
from tl_widgets.loading.processing_methods import ProcessingMethods
from tl_widgets.loading.sources import find_source

T = TypeVar("T", bound="FromPretrained")


class FromPretrained(ProcessingMethods):
    """What loads a model, for a class that is built from a config and a tokenizer.

    Attributes
    ----------
    loaded_from
        The directory that the weights were read from; None for those of a model in memory, and for random ones.
    """

    loaded_from: Path | None = None

    @classmethod
    def from_pretrained(
        cls: type[T],
        model_name: str,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        refactor_factored_attn_matrices: bool = False,
        checkpoint_index: int | None = None,
        checkpoint_value: int | None = None,
        checkpoint_label: str | None = None,
        hf_model: Any = None,
        device: str | torch.device | None = None,
        n_devices: int = 1,
        tokenizer: Any = None,
        move_to_device: bool = True,
        fold_value_biases: bool = True,
        default_prepend_bos: bool | None = None,
        default_padding_side: str | None = None,
        dtype: str | torch.dtype = torch.float32,
        first_n_layers: int | None = None,
        n_ctx: int | None = None,
        **hub_options: Any,
    ) -> T:
        """Load a model's weights and, unless told otherwise, rewrite them so that they are easier to read.

        Parameters
        ----------
        model_name
            One of the field's aliases (``"gpt2-small"``), a hub id, a local directory (of transformers, or of
            `save_pretrained`), a GGUF file, or a toy that is part of this package (``"toy-induction"``,
            ``"toy-1l-mlp"``).
        fold_ln, center_writing_weights, center_unembed, fold_value_biases
            Processing steps; log-probabilities never change. Writing weights are centred where the norm is LayerNorm,
            the only one that is blind to it. See `tl_widgets.loading.processing`.
        refactor_factored_attn_matrices
            Each head's QK and OV in their singular bases; refused for rotary models, among others.
        checkpoint_index, checkpoint_value, checkpoint_label
            A checkpoint of the training run (Pythia, Stanford CRFM's GPT-2): its place among them, its step, or the
            name of its revision; see `tl_widgets.loading.checkpoints`.
        hf_model
            A transformers model to take the weights from; asks nothing of a network.
        n_devices
            Split the layers, in order, over so many CUDA devices.
        tokenizer
            In place of the model's own. With `hf_model` and none, the model reads tokens only.
        default_prepend_bos
            Whether strings start with BOS unless a call says otherwise.
        dtype
            A torch dtype, or ``"float32"``, ``"bf16"``, ...
        first_n_layers, n_ctx
            Load only the first layers; set another longest context.
        hub_options
            For the hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ...

        Raises
        ------
        CannotLoad
            For an unknown name (the nearest are suggested), an architecture that is not mapped, or broken files.

        Examples
        --------
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        Loaded pretrained model toy-induction into HookedTransformer
        >>> model.to_string(model("red dog big house red dog big")[0, -1].argmax())
        'house'
        """
        checkpoint = find_checkpoint(model_name, checkpoint_index, checkpoint_value, checkpoint_label)
        if checkpoint is not None:
            if hf_model is not None or "revision" in hub_options:
                raise BadInput("A checkpoint is a revision on the hub: leave hf_model= and revision= out.")
            hub_options["revision"] = checkpoint.revision
        source = find_source(model_name, hf_model, **hub_options)
        overrides = {"device": device, "n_devices": n_devices, "dtype": as_dtype(dtype)}
        overrides |= {"first_n_layers": first_n_layers, "n_ctx": n_ctx}
        if default_prepend_bos is not None:
            overrides["default_prepend_bos"] = default_prepend_bos
        if checkpoint is not None:
            overrides |= {
                "from_checkpoint": True,
                "checkpoint_index": checkpoint.index,
                "checkpoint_value": checkpoint.value,
                "checkpoint_label_type": checkpoint.label_type,
            }
        cfg, family = config_of(source, **overrides)
        model = cls(cfg, tokenizer or source.load_tokenizer(), move_to_device, default_padding_side)  # type: ignore[call-arg]
        model.loaded_from = source.folder
        fill_(model, family, source.tensors)
        process_(
            model,
            # A model saved after processing comes with its norms folded.
            fold_ln=fold_ln and cfg.normalization_type in ("LN", "RMS"),
            center_writing_weights=center_writing_weights and cfg.normalization_type == "LN",
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )
        print(f"Loaded pretrained model {model_name} into {cls.__name__}")
        return model

    @classmethod
    def from_pretrained_no_processing(
        cls: type[T],
        model_name: str,
        fold_ln: bool = False,
        center_writing_weights: bool = False,
        center_unembed: bool = False,
        refactor_factored_attn_matrices: bool = False,
        fold_value_biases: bool = False,
        dtype: str | torch.dtype = torch.float32,
        default_prepend_bos: bool | None = None,
        default_padding_side: str | None = None,
        **from_pretrained_kwargs: Any,
    ) -> T:
        """`from_pretrained` with the weights as they are."""
        return cls.from_pretrained(
            model_name,
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
            fold_value_biases=fold_value_biases,
            dtype=dtype,
            default_prepend_bos=default_prepend_bos,
            default_padding_side=default_padding_side,
            **from_pretrained_kwargs,
        )

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Save config, weights (as safetensors) and tokenizer in a directory that `from_pretrained` reads.

        Parameters
        ----------
        path
            Made where it does not exist; what an earlier save left in it is replaced.

        Examples
        --------
        >>> import tempfile
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=1, d_model=16, n_ctx=8, d_head=8, attn_only=True, d_vocab=5))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     again = HookedTransformer.from_pretrained_no_processing(folder)
        Loaded pretrained model ... into HookedTransformer
        >>> torch.equal(model.W_E, again.W_E)
        True
        """
        from safetensors.torch import save_file

        folder = Path(path).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        config = json.dumps(saved.config_to_save(self.cfg), indent=2)
        (folder / "config.json").write_text(config + "\n", encoding="utf-8")
        tensors = {name: parameter.detach().contiguous() for name, parameter in self.named_parameters()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
