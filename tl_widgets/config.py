"""`HookedTransformerConfig`: one vocabulary of model shapes."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from tl_widgets.errors import BadInput, BadType, nearest, unknown
from tl_widgets.math.activations import ACTIVATIONS

NORMALIZATION_TYPES = ("LN", "LNPre", "RMS", "RMSPre")
POSITIONAL_EMBEDDING_TYPES = ("standard", "rotary", "alibi", "shortformer")
INIT_MODES = ("gpt2", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "muP")
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float64": torch.float64,
}

# What only acts on contexts longer than those of training (Qwen 1), and is not built here.
_BEYOND_TRAINING = ("use_logn_attn", "use_dynamic_ntk_rope")


@dataclass
class HookedTransformerConfig:
    """The shape of a model and how it computes; a plain mutable object with the field's names.

    Parameters
    ----------
    n_layers, d_model, n_ctx, d_head
        Number of blocks, width of the residual stream, longest context in tokens, width of a head.
    n_heads, n_key_value_heads
        Query heads (default ``d_model // d_head``), and key/value heads under grouped-query attention.
    d_mlp, act_fn
        Width of the MLP (default ``4 * d_model``) and its activation function; not needed with `attn_only`.
    d_vocab, d_vocab_out
        Input and output vocabulary; -1 takes the tokenizer's, and ``d_vocab``.
    normalization_type
        ``"LN"``, ``"RMS"``, their folded forms ``"LNPre"`` and ``"RMSPre"``, or None.
    positional_embedding_type
        ``"standard"`` (learned), ``"rotary"``, ``"alibi"`` (scores fall with distance), or ``"shortformer"`` (learned,
        added to what queries and keys read instead of to the residual stream).

    Examples
    --------
    >>> cfg = HookedTransformerConfig(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu")
    >>> cfg.n_heads, cfg.d_mlp, cfg.attn_scale
    (4, 64, 2.0)
    """

    n_layers: int
    d_model: int
    n_ctx: int
    d_head: int
    model_name: str = "custom"
    n_heads: int = -1
    d_mlp: int | None = None
    act_fn: str | None = "relu"
    d_vocab: int = -1
    eps: float = 1e-5
    use_attn_result: bool = False
    use_attn_scale: bool = True
    attn_scale: float = -1.0
    use_split_qkv_input: bool = False
    use_hook_mlp_in: bool = False
    use_attn_in: bool = False
    use_local_attn: bool = False
    original_architecture: str | None = None
    from_checkpoint: bool = False
    checkpoint_index: int | None = None
    checkpoint_label_type: str | None = None
    checkpoint_value: int | None = None
    tokenizer_name: str | None = None
    window_size: int | None = None
    attn_types: list[str] | None = None
    init_mode: str = "gpt2"
    normalization_type: str | None = "LN"
    device: str | torch.device | None = None
    n_devices: int = 1
    attention_dir: str = "causal"
    attn_only: bool = False
    seed: int | None = None
    initializer_range: float = -1.0
    init_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    positional_embedding_type: str = "standard"
    final_rms: bool = False
    d_vocab_out: int = -1
    parallel_attn_mlp: bool = False
    rotary_dim: int | None = None
    n_params: int | None = None
    use_hook_tokens: bool = False
    gated_mlp: bool = False
    default_prepend_bos: bool = True
    dtype: torch.dtype = torch.float32
    tokenizer_prepends_bos: bool | None = None
    n_key_value_heads: int | None = None
    post_embedding_ln: bool = False
    rotary_base: float = 10000
    rotary_base_local: float | None = None
    rotary_scaling_factor: float = 1.0
    trust_remote_code: bool = False
    rotary_adjacent_pairs: bool = False
    load_in_4bit: bool = False
    quantization_method: str | None = None
    num_experts: int | None = None
    experts_per_token: int | None = None
    relative_attention_max_distance: int | None = None
    relative_attention_num_buckets: int | None = None
    decoder_start_token_id: int | None = None
    tie_word_embeddings: bool = False
    use_normalization_before_and_after: bool = False
    attn_scores_soft_cap: float = -1.0
    output_logits_soft_cap: float = -1.0
    use_NTK_by_parts_rope: bool = False
    NTK_by_parts_low_freq_factor: float = 1.0
    NTK_by_parts_high_freq_factor: float = 4.0
    NTK_by_parts_factor: float = 8.0
    NTK_original_ctx_len: int = 8192
    use_yarn_rope: bool = False
    yarn_factor: float = 1.0
    yarn_attention_factor: float = 1.0
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    yarn_original_max_position_embeddings: int = 4096
    yarn_truncate: bool = True
    yarn_global_attn_only: bool = False
    use_attention_sinks: bool = False
    norm_topk_prob: bool = False
    use_qk_norm: bool = False
    clip_qkv: float | None = None
    use_logn_attn: bool = False
    train_seq_length: int | None = None
    use_dynamic_ntk_rope: bool = False
    ungroup_grouped_query_attention: bool = False
    uses_rms_norm: bool = False
    layer_norm_folding: bool = False

    def __post_init__(self) -> None:
        if self.n_heads == -1:
            self.n_heads = self.d_model // self.d_head
        self._fill_attention()
        self._fill_mlp()
        if self.d_vocab_out == -1:
            self.d_vocab_out = self.d_vocab
        if self.initializer_range < 0:  # a standard deviation for gpt2, a gain for the others
            self.initializer_range = 0.8 / float(np.sqrt(self.d_model)) if self.init_mode == "gpt2" else 1.0
        if isinstance(self.dtype, str):
            self.dtype = as_dtype(self.dtype)
        if self.device is None:
            self.device = default_device()
        if self.seed is not None:
            self.set_seed_everywhere(self.seed)
        self._check()
        if self.n_params is None:
            self.n_params = self._count_params()

    def _fill_attention(self) -> None:
        if self.use_attn_scale and self.attn_scale == -1.0:
            self.attn_scale = float(np.sqrt(self.d_head))
        if self.positional_embedding_type == "rotary" and self.rotary_dim is None:
            self.rotary_dim = self.d_head

    def _fill_mlp(self) -> None:
        if self.attn_only:
            return
        if self.d_mlp is None:
            self.d_mlp = 4 * self.d_model
        if self.act_fn is None:
            raise BadInput(f"act_fn must be given unless attn_only=True; there is {', '.join(ACTIVATIONS)}.")
        if self.act_fn not in ACTIVATIONS:
            raise unknown("act_fn", self.act_fn, ACTIVATIONS)

    def _check(self) -> None:
        for name, allowed in (
            ("normalization_type", (*NORMALIZATION_TYPES, None)),
            ("positional_embedding_type", POSITIONAL_EMBEDDING_TYPES),
            ("attention_dir", ("causal", "bidirectional")),
            ("init_mode", INIT_MODES),
        ):
            if getattr(self, name) not in allowed:
                raise BadInput(f"{name} is one of {', '.join(map(repr, allowed))}, not {getattr(self, name)!r}.")
        if self.load_in_4bit:
            raise BadInput("load_in_4bit=True: weights are read and changed here as they are; pass dtype='bf16'.")
        for name in _BEYOND_TRAINING:
            if getattr(self, name) and self.n_ctx > (self.train_seq_length or 0):
                raise BadInput(
                    f"{name}=True changes attention beyond train_seq_length ({self.train_seq_length}), which is not "
                    f"built: set n_ctx ({self.n_ctx}) to at most that, where it changes nothing."
                )
        if self.n_key_value_heads is not None and self.n_heads % self.n_key_value_heads:
            raise BadInput(
                f"n_heads ({self.n_heads}) must be a multiple of n_key_value_heads ({self.n_key_value_heads})."
            )
        if self.gated_mlp and self.is_layer_norm_activation() and not self.num_experts:
            raise BadInput(f"act_fn={self.act_fn!r} normalises a plain MLP; gated_mlp=True has no place for its norm.")
        if self.num_experts and not 0 < (self.experts_per_token or 0) <= self.num_experts:
            raise BadInput(
                f"num_experts={self.num_experts} needs experts_per_token between 1 and {self.num_experts}, "
                f"not {self.experts_per_token}."
            )
        if self.use_local_attn and (self.window_size is None or self.attn_types is None):
            raise BadInput("use_local_attn=True needs window_size and attn_types (one 'global' or 'local' a layer).")

    def _count_params(self) -> int:
        """Weights in attention and MLPs, without biases and embeddings."""
        n_params = self.n_layers * self.d_model * self.d_head * self.n_heads * 4
        if not self.attn_only:
            n_mlp = self.d_model * (self.d_mlp or 0) * (3 if self.gated_mlp else 2)
            if self.num_experts:
                n_mlp = (n_mlp + self.d_model) * self.num_experts  # each with a row of the router
            n_params += self.n_layers * n_mlp
        return n_params

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> HookedTransformerConfig:
        """Build from a plain dict; an unknown key is an error that suggests the nearest field."""
        known = [field.name for field in fields(cls)]
        for key in config_dict:
            if key not in known:
                raise unknown("config field", key, nearest(key, known) or known)
        return cls(**config_dict)

    @classmethod
    def unwrap(cls, config: dict[str, Any] | HookedTransformerConfig) -> HookedTransformerConfig:
        """Return a config as it is, or build one from a dict."""
        if isinstance(config, dict):
            return cls.from_dict(config)
        if isinstance(config, HookedTransformerConfig):
            return config
        hint = (
            " Use HookedTransformer.from_pretrained(name) to load a model by name." if isinstance(config, str) else ""
        )
        raise BadType(f"A config is a HookedTransformerConfig or a dict, not {config!r}.{hint}")

    def to_dict(self) -> dict[str, Any]:
        """All fields and their values."""
        return self.__dict__

    def is_layer_norm_activation(self) -> bool:
        """Whether the MLP's activation function has a LayerNorm inside (``solu_ln``)."""
        return self.act_fn is not None and self.act_fn.endswith("_ln")

    def set_seed_everywhere(self, seed: int) -> None:
        """Seed torch, numpy and random."""
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # "everywhere" means the global generator too

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads: `n_key_value_heads`, or `n_heads` where they are not grouped."""
        return self.n_key_value_heads or self.n_heads

    @property
    def n_kv_hooked(self) -> int:
        """Key/value heads as hooks see them: `n_heads` when ungrouped, whatever is stored."""
        return self.n_heads if self.ungroup_grouped_query_attention else self.n_kv_heads


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """``"bf16"``, ``"bfloat16"`` or ``torch.bfloat16`` -> ``torch.bfloat16``."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return DTYPES[dtype]


def default_device() -> str:
    """Return ``"cuda"`` where there is one, else ``"cpu"`` (Apple's ``"mps"`` only when asked for)."""
    return "cuda" if torch.cuda.is_available() else "cpu"
