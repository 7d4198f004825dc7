"""What DeepSpeed's block and attention are configured with."""

from __future__ import annotations

from typing import Any

import torch

from ..ops import ActivationFuncType


class Diffusers2DTransformerConfig:
    """The configuration of a `DeepSpeedDiffusersTransformerBlock`.

    int8_quantization: whether the feed-forward's two weights are kept as int8.
    """

    def __init__(self, int8_quantization: bool = False) -> None:
        self.int8_quantization = int8_quantization


# DeepSpeed's names and defaults of what has no effect on a diffusers model's attention.
_FIELDS_WITHOUT_EFFECT: dict[str, Any] = {
    "pre_layer_norm": True,
    "norm_type": 1,
    "stochastic_mode": False,
    "scale_attention": True,
    "triangular_masking": True,
    "local_attention": False,
    "window_size": 256,
    "rotary_dim": -1,
    "rotate_half": False,
    "rotate_every_two": True,
    "return_tuple": True,
    "mlp_after_attn": True,
    "mlp_act_func_type": ActivationFuncType.GELU,
    "training_mp_size": 1,
    "bigscience_bloom": False,
    "max_out_tokens": 1024,
    "min_out_tokens": 1,
    "enable_qkv_quantization": False,
    "use_mup": False,
    "return_single_tuple": False,
    "set_empty_params": False,
    "transposed_mode": False,
    "use_triton": False,
    "triton_autotune": False,
    "num_kv": -1,
    "rope_theta": 10000,
    "invert_mask": True,
}


class DeepSpeedInferenceConfig:
    """The configuration of a `DeepSpeedDiffusersAttention`.

    hidden_size: number of channels C. heads: number of attention heads, a divisor of C. dtype: of the
    weights, float32, float16 or bfloat16. scale_attn_by_inverse_layer_idx: divides the attention's scores by
    the number of attentions made up to and with the one that gets this configuration. mp_size: must be 1, the
    model is not split.

    All other fields of DeepSpeed's configuration (intermediate_size, num_hidden_layers, layer_norm_eps,
    local_rank and the keywords in without_effect, such as max_out_tokens) are attributes with the values
    given, or its defaults, and change nothing: an attention of a diffusers model has no causal mask, no
    rotary embedding and no cache. Raises TypeError for a field that DeepSpeed's configuration does not have.
    """

    def __init__(
        self,
        hidden_size: int = -1,
        intermediate_size: int = -1,
        heads: int = -1,
        num_hidden_layers: int = -1,
        layer_norm_eps: float = 1e-12,
        local_rank: int = -1,
        mp_size: int = 1,
        dtype: torch.dtype = torch.float16,
        *,
        scale_attn_by_inverse_layer_idx: bool = False,
        **without_effect: Any,
    ) -> None:
        unknown = without_effect.keys() - _FIELDS_WITHOUT_EFFECT.keys()
        if unknown:
            raise TypeError(f"DeepSpeedInferenceConfig has no field {', '.join(sorted(unknown))}")
        self.layer_id = -1
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size if intermediate_size > 0 else 4 * hidden_size
        self.heads = heads
        self.num_hidden_layers = num_hidden_layers
        self.epsilon = layer_norm_eps
        self.local_rank = local_rank
        self.mp_size = mp_size
        self.dtype = dtype
        self.scale_attn_by_inverse_layer_idx = scale_attn_by_inverse_layer_idx
        for name, value in (_FIELDS_WITHOUT_EFFECT | without_effect).items():
            setattr(self, name, value)
