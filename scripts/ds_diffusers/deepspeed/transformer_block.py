"""DeepSpeed's transformer block for diffusers models, on the operators of this package."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..class_names import class_name, name_of_class
from ..dispatch import call_without_gradient
from ..ops import ActivationFuncType
from ..quantization import Int8Linear, is_quantized_entry
from .attention import DeepSpeedDiffusersAttention
from .configuration import Diffusers2DTransformerConfig
from .group_quantizer import GroupQuantizer
from .in_parts import run_in_parts
from .operator_modules import load_spatial_module, load_transformer_module

_ACTIVATION_TYPES = {"GEGLU": ActivationFuncType.GATED_GELU, "SwiGLU": ActivationFuncType.GATED_SILU}
_SCALES = {"ff1_w": "ff1_w_scale", "ff2_w": "ff2_w_scale"}


class DeepSpeedDiffusersTransformerBlock(nn.Module):
    """Computes what a diffusers BasicTransformerBlock of norm_type "layer_norm" computes in evaluation mode.

    It is made from such a block, whose parameters and attention modules it takes over without copying them
    (int8 weights are new). Each call runs as one operator, `ds_diffusers.ops.block_forward`, where the
    attention modules are plain ones, else as single operators around them; they are called then, whatever
    they have become (LoRA, other processors, quantised layers, hooks). Gradients reach the inputs and the
    attention modules. As `ds_diffusers.patch` does, it moves the weights of an attention's q, k and v next to
    each other in memory: make it from a block that is on its device.

    Attributes, for C channels and F features inside the feed-forward; the block's own parameters have no
    gradient:
        attn_1, attn_2: the attention modules; attn_2 None: the block has one attention.
        attn_1_bias, attn_2_bias: [C], added to their outputs together with the residual: the output bias of a
            `DeepSpeedDiffusersAttention`, which does not add it itself then (do_out_bias), zeros for others.
        ff1_w, ff2_w: [2F, C], values first, gates second, and [C, F]; int8 with int8_quantization. `scale` of
            an int8 one is float32 [N, groups per row].
        ff1_b, ff2_b: [2F], [C]; None: no bias.
        norm1_g, norm1_b, norm2_g, norm2_b, norm3_g, norm3_b: [C]; None: ones, zeros.
        norm1_eps, norm2_eps, norm3_eps: the norms' epsilons.
        activation_type: ActivationFuncType.GATED_GELU or GATED_SILU.
        config, quantizer: the configuration, and the GroupQuantizer made for it.
        transformer_cuda_module: what `load_transformer_module` returns.

    A new int8 Parameter with a `scale`, as GroupQuantizer makes them, can be assigned to ff1_w and ff2_w. A
    state_dict holds the scales as "ff1_w_scale" and "ff2_w_scale", and loads into a block that is quantised
    alike.
    """

    def __init__(self, equivalent_module: nn.Module, config: Diffusers2DTransformerConfig) -> None:
        """
        Args:
            equivalent_module: a BasicTransformerBlock of diffusers, or a module made of the same parts:
                norm1, norm2, norm3 (torch.nn.LayerNorm), attn1, attn2, and ff.net with a GEGLU or SwiGLU
                first and a linear layer third. Its attentions may be DeepSpeedDiffusersAttention.
            config: a Diffusers2DTransformerConfig.

        Raises:
            TypeError, ValueError: for a module or config of another kind.
            RuntimeError: as `ds_diffusers.load`.
        """
        super().__init__()
        if not hasattr(config, "int8_quantization"):
            raise TypeError(f"config is {type(config).__name__}, must be a Diffusers2DTransformerConfig")
        self.activation_type = _check_equivalent(equivalent_module)
        load_transformer_module()
        load_spatial_module()
        self.config = config
        self.quantizer = GroupQuantizer(q_int8=config.int8_quantization)
        self.only_cross_attention = getattr(equivalent_module, "only_cross_attention", False)
        self.pos_embed = getattr(equivalent_module, "pos_embed", None)
        self.fuser = getattr(equivalent_module, "fuser", None)

        for name in _SCALES.values():
            self.register_buffer(name, None)
        layers = equivalent_module.ff.net
        self.ff1_w, self.ff1_b = self._feed_forward_parameters(layers[0].proj)
        self.ff2_w, self.ff2_b = self._feed_forward_parameters(layers[2])
        for name in ("norm1", "norm2", "norm3"):
            norm = getattr(equivalent_module, name, None)
            setattr(self, f"{name}_g", _shared(getattr(norm, "weight", None)))
            setattr(self, f"{name}_b", _shared(getattr(norm, "bias", None)))
            setattr(self, f"{name}_eps", getattr(norm, "eps", None))

        self.attn_1, self.attn_1_bias = self._attention_and_bias(equivalent_module.attn1)
        self.attn_2, self.attn_2_bias = self._attention_and_bias(getattr(equivalent_module, "attn2", None))
        self._place_weights()

    @property
    def transformer_cuda_module(self) -> ModuleType:
        """The operators, as DeepSpeed's block has them; not a part of the block that is copied or pickled."""
        return load_transformer_module()

    def forward(
        self,
        hidden_states: Tensor,
        context: Tensor | None = None,
        timestep: Tensor | None = None,
        *,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """
        Args:
            hidden_states: [B, S, C], any strides.
            context, encoder_hidden_states: [B, T, K], the input of the cross-attention, by the name that
                older or newer releases of diffusers give it; the second one is taken where both are given.
                None: attention to the hidden states.
            attention_mask, encoder_attention_mask: for the first and the second attention, [B, 1, T] or
                [B * heads, 1, T], added to the scores.
            cross_attention_kwargs: keyword arguments for the attention modules; "gligen" is for the fuser.
            timestep, class_labels, added_cond_kwargs: accepted as diffusers passes them, without effect.

        Returns:
            [B, S, C], contiguous.

        Raises:
            RuntimeError, TypeError: for an argument of another shape, dtype or device, or that an attention
                module does not take.
        """
        from .fused_call import operator_arguments

        if encoder_hidden_states is not None:
            context = encoder_hidden_states
        masks = attention_mask, encoder_attention_mask
        if not cross_attention_kwargs:
            arguments = operator_arguments(self, hidden_states, context, *masks)
            if arguments is not None:
                return call_without_gradient(
                    torch.ops.ds_diffusers.block_forward.default, hidden_states, **arguments
                )
        return run_in_parts(self, hidden_states, context, *masks, cross_attention_kwargs or {})

    def feed_forward_scale(self, name: str) -> Tensor | None:
        """The scale of the weight "ff1_w" or "ff2_w" as block_forward takes it: float32, [N] or
        [N, groups per row]; None where the weight is not int8.

        Raises RuntimeError for an int8 weight without a scale.
        """
        scale = self._buffers[_SCALES[name]]
        if scale is None and self._parameters[name].dtype == torch.int8:
            raise RuntimeError(
                f"{name} is int8 without a scale, must be assigned as GroupQuantizer returns it"
            )
        return scale

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _SCALES:
            is_quantized = value is not None and value.dtype == torch.int8 and hasattr(value, "scale")
            self._buffers[_SCALES[name]] = _scale_by_row(name, value) if is_quantized else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._attach_scales()

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> DeepSpeedDiffusersTransformerBlock:
        kept = {name: self._buffers[name] for name in _SCALES.values() if self._buffers[name] is not None}
        super()._apply(fn, recurse)
        for name, scale in kept.items():
            if self._buffers[name].dtype != torch.float32:
                # A cast of the whole module: a scale in 16 bits would put the whole row off.
                self._buffers[name] = scale.to(self._buffers[name].device)
        self._attach_scales()
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in _SCALES:
            is_int8 = self._parameters[name].dtype == torch.int8
            if is_int8 and not is_quantized_entry(state_dict, f"{prefix}{name}", error_msgs):
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._attach_scales()

    def _attach_scales(self) -> None:
        for name, scale_name in _SCALES.items():
            scale = self._buffers[scale_name]
            if scale is not None:
                self._parameters[name].scale = scale.view(len(scale), -1)

    def _feed_forward_parameters(self, linear: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
        bias = _shared(linear.bias)
        if type(linear) is Int8Linear:
            weight = _shared(linear.weight)
            weight.scale = linear.scale.data.view(linear.out_features, -1)
            return weight, bias
        return self.quantizer.quantize(_shared(linear.weight)), bias

    def _attention_and_bias(
        self, attention: nn.Module | None
    ) -> tuple[nn.Module | None, nn.Parameter | None]:
        if attention is None:
            return None, None
        if isinstance(attention, DeepSpeedDiffusersAttention):
            attention.lay_out_weights()
            if attention.attn_ob is not None:
                attention.do_out_bias = False
                return attention, attention.attn_ob
        like = self.norm1_g if self.norm1_g is not None else next(attention.parameters())
        zeros = torch.zeros(self.ff2_w.shape[0], dtype=like.dtype, device=like.device)
        return attention, nn.Parameter(zeros, requires_grad=False)

    def _place_weights(self) -> None:
        """Places the weights of plain attentions where block_forward computes them as one product."""
        from ..calls import calls_of
        from .fused_call import block_parameters

        parameters, _ = block_parameters(self, with_context=self.attn_2 is not None) or ({}, 0)
        if parameters:
            calls_of(self).layout.place(parameters)


def _shared(parameter: Tensor | None) -> nn.Parameter | None:
    """A parameter of the same memory, without gradient."""
    return None if parameter is None else nn.Parameter(parameter.data, requires_grad=False)


def _scale_by_row(name: str, weight: nn.Parameter) -> Tensor:
    """The scale of a weight [N, K] as block_forward takes it, from one for each group of its elements."""
    rows, columns = weight.shape
    scale = weight.scale.detach().to(weight.device, torch.float32).flatten()
    if scale.numel() % rows == 0 and columns * rows % scale.numel() == 0:
        return scale if scale.numel() == rows else scale.view(rows, -1)
    if rows % scale.numel() == 0:
        return scale.repeat_interleave(rows // scale.numel())
    raise ValueError(
        f"{name}.scale has {scale.numel()} groups, must have a multiple or a divisor of the {rows} rows"
    )


def _check_equivalent(module: nn.Module) -> ActivationFuncType:
    """The activation of its feed-forward."""
    for name in ("norm1", "norm3", "attn1", "ff"):
        if getattr(module, name, None) is None:
            kind = type(module).__name__
            raise TypeError(f"equivalent_module is {kind} without {name}, must be a BasicTransformerBlock")
    norm_type = getattr(module, "norm_type", "layer_norm")
    if norm_type != "layer_norm":
        raise ValueError(f"equivalent_module.norm_type is {norm_type}, must be layer_norm")
    with_attn2 = getattr(module, "attn2", None) is not None
    for name in ("norm1", "norm2", "norm3") if with_attn2 else ("norm1", "norm3"):
        _check_class(f"equivalent_module.{name}", getattr(module, name), nn.LayerNorm)
    layers = module.ff.net
    kind = type(layers[0]).__name__
    if kind not in _ACTIVATION_TYPES:
        raise TypeError(
            f"equivalent_module.ff.net.0 is {kind}, must be one of {', '.join(_ACTIVATION_TYPES)}"
        )
    _check_class("equivalent_module.ff.net.0.proj", layers[0].proj, nn.Linear, Int8Linear)
    _check_class("equivalent_module.ff.net.2", layers[2], nn.Linear, Int8Linear)
    return _ACTIVATION_TYPES[kind]


def _check_class(path: str, module: nn.Module, *classes: type[nn.Module]) -> None:
    if type(module) not in classes:
        expected = " or ".join(map(name_of_class, classes))
        raise TypeError(f"{path} is {class_name(module)}, must be {expected}")
