"""Processing as methods of a model: on a state dict, or on the model's own weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from tl_widgets.errors import BadInput
from tl_widgets.loading import processing
from tl_widgets.network import Network


class ProcessingMethods(Network):
    """The steps of `tl_widgets.loading.processing`, each taking a state dict of this model and returning a new one."""

    def fold_layer_norm(
        self, state_dict: Mapping[str, Tensor], fold_biases: bool = True, center_weights: bool = True
    ) -> dict[str, Tensor]:
        """Norms' gains (and biases) in the weights that read them; the norms themselves become one and zero."""
        reason = processing.STEPS["fold_ln"].why_not(dict(state_dict), self.cfg)
        if reason:
            warnings.warn(f"fold_layer_norm is left out for {self.cfg.model_name}: {reason}", stacklevel=2)
            return dict(state_dict)
        weights = _copied(state_dict)
        processing.fold_layer_norm(weights, self.cfg, fold_biases, center_weights)
        return weights

    def center_writing_weights(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What writes to the residual stream, less its mean over d_model."""
        return self._processed("center_writing_weights", state_dict)

    def center_unembed(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`W_U` and `b_U` less their mean over the vocabulary."""
        return self._processed("center_unembed", state_dict)

    def fold_value_biases(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`b_V` through `W_O` in `b_O`."""
        return self._processed("fold_value_biases", state_dict)

    def refactor_factored_attn_matrices(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each head's QK and OV in their singular bases; refused where attention is not a product of two maps."""
        return self._processed("refactor_factored_attn_matrices", state_dict)

    def _processed(self, step: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = _copied(state_dict)
        processing.run_step(step, weights, self.cfg)
        return weights

    def fill_missing_keys(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Biases and gains that are missing, from this model; a missing weight matrix is an error."""
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        matrices = [n for n in missing if any(part.lstrip("_").startswith("W_") for part in n.split("."))]
        if matrices:
            raise BadInput(f"The state dict lacks {', '.join(matrices)}: nothing could stand in for these.")
        return dict(state_dict) | {name: own[name] for name in missing}

    def load_and_process_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
    ) -> None:
        """Load a state dict, and process it in place; see `tl_widgets.loading.processing`."""
        self.load_state_dict(self.fill_missing_keys(state_dict))
        self.process_weights_(
            fold_ln, center_writing_weights, center_unembed, refactor_factored_attn_matrices, fold_value_biases
        )

    def process_weights_(
        self,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        refactor_factored_attn_matrices: bool = False,
        fold_value_biases: bool = True,
    ) -> None:
        """Process this model's own weights in place; log-probabilities never change."""
        processing.process_(
            self,
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )


def _copied(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict shares memory with its model, which a step on the dict must leave alone."""
    return {name: torch.clone(tensor.detach()) for name, tensor in state_dict.items()}
