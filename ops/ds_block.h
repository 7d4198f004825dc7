// The whole of diffusers' BasicTransformerBlock (norm_type "layer_norm") as one call.
//
//   n1 = layer_norm(x);   s1 = x + attention1(n1, attn1_context or n1)
//   n2 = layer_norm(s1);  s2 = s1 + attention2(n2, attn2_context or n2)     (s2 = s1 without attn2 weights)
//   n3 = layer_norm(s2);  y = s2 + ff_out(gated_activation(ff_in(n3)))
//
//   attention(q, c) = out(softmax(Q · Kᵀ / √head_size + mask) · V) for each head,
//   with Q = q·Wqᵀ + bq, K = c·Wkᵀ + bk, V = c·Wvᵀ + bv, or K and V as they are given (attn2.key_value)
//
// Source of the data flow: diffusers' BasicTransformerBlock.forward with AttnProcessor2_0, in evaluation
// mode.
#ifndef DS_BLOCK_H
#define DS_BLOCK_H

#include "ds_context.h"
#include "ds_services.h"
#include "ds_tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

// I = heads · head_size. Weights are [out_features, in_features] as torch.nn.Linear keeps them.
typedef struct ds_attention_arguments {
  const ds_tensor
      *context;          // [B, T, K]: keys and values come from it; NULL: from the normalised hidden states
  const ds_tensor *mask; // [B|1, S|1, T] or [B|1, heads|1, S|1, T], added to the scores; NULL: none
  // [B, T, 2·I]: in each row the keys of all heads, then the values, as they are projected; context, k and v
  // are NULL then. Of attn2 alone, NULL in attn1.
  const ds_tensor *key_value;
  const ds_tensor *q_weight; // [I, C]
  const ds_tensor *q_bias;   // [I]; NULL: none
  const ds_tensor *k_weight; // [I, K]; K is C without a context
  const ds_tensor *k_bias;
  const ds_tensor *v_weight; // [I, K]
  const ds_tensor *v_bias;
  const ds_tensor *out_weight; // [C, I]
  const ds_tensor *out_bias;   // [C]; NULL: none
  int64_t heads;               // divides I
} ds_attention_arguments;

// All of one device, and, but for quantised weights and their scales, of one dtype. Vectors are contiguous;
// matrices, contexts and key_value have rows at one stride with a contiguous last dimension; hidden_states
// and masks may have any strides.
//
// A feed-forward weight W [N, K] may be quantised: int8, with a scale in float32, contiguous, of [N] or of
// [N, G] where G divides K. It stands for W[n, k] · scale[n, k / (K / G)]; a scale that is not finite leaves
// no element of output feature n finite.
typedef struct ds_block_arguments {
  const ds_tensor *hidden_states; // [B, S, C]
  const ds_tensor *norm1_weight;  // [C]; NULL: ones
  const ds_tensor *norm1_bias;    // [C]; NULL: zeros
  ds_attention_arguments attn1;
  const ds_tensor *norm2_weight;
  const ds_tensor *norm2_bias;
  ds_attention_arguments attn2; // q_weight NULL: the block has no second attention
  const ds_tensor *norm3_weight;
  const ds_tensor *norm3_bias;
  const ds_tensor *ff_in_weight;  // [2F, C]: values first, gates second
  const ds_tensor *ff_in_scale;   // [2F] or [2F, G]; NULL: ff_in_weight is not quantised
  const ds_tensor *ff_in_bias;    // [2F]; NULL: none
  const ds_tensor *ff_out_weight; // [C, F]
  const ds_tensor *ff_out_scale;  // [C] or [C, G]; NULL: ff_out_weight is not quantised
  const ds_tensor *ff_out_bias;   // [C]; NULL: none
  double norm_epsilon;            // of all three norms; finite, >= 0
  int64_t activation_type;        // DS_ACTIVATION_GATED_GELU (3) or DS_ACTIVATION_GATED_SILU (4)
} ds_block_arguments;

// Writes y to output: [B, S, C], contiguous, of hidden_states' dtype and device, overlapping no input.
//
// Asks services->allocate for scratch once. An empty input (B or S is 0) is a success that writes nothing.
// Statuses as for the single operators, and whatever a service returns; after a failure past the checks the
// output is unspecified.
ds_status ds_block_forward(const ds_context *context, const ds_services *services,
                           const ds_block_arguments *arguments, const ds_tensor *output);

#ifdef __cplusplus
}
#endif
#endif
