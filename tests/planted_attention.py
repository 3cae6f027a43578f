"""The smallest pair of models for each cause in attention that a patch undoes."""

from dataclasses import replace

import jax.numpy as jnp
import torch
from flax import nnx
from planted_nets import dense, flax_layers, layer, words
from planted_places import (
    KEPT,
    ROW_HIDDEN,
    apply_rotary,
    apply_rotary_pairs,
    causal_attention,
    jax_attention,
    jax_grouped,
    jax_heads,
    multiplied_attention,
    rotary,
    rotary_in_bfloat16,
    torch_added_mask,
    torch_attention,
    torch_filled_mask,
    torch_grouped,
    torch_rotary,
    torch_rotate_halves,
    torch_rotate_pairs,
    written_attention,
)
from torch import nn

ATTENTION_PAIRS = (
    replace(
        words(
            "attention-float32",
            lambda net, x: torch_attention(x),
            lambda net, x: written_attention(x, 0.5),
            lambda net, x: jax_attention(x),
        ),
        float64=True,
    ),
    words(
        "attention-unscaled",
        lambda net, x: torch_attention(x, scale=1.0),
        lambda net, x: jax_attention(x, scale=1.0),
        lambda net, x: nnx.dot_product_attention(*jax_heads(x)).reshape(x.shape),
    ),
    words(
        "attention-scale",
        lambda net, x: torch_attention(x),
        lambda net, x: written_attention(x, 0.5),
        lambda net, x: written_attention(x, 1.0),
    ),
    words(
        "attention-scale",
        lambda net, x: torch_attention(x),
        lambda net, x: multiplied_attention(x, 0.5),
        lambda net, x: multiplied_attention(x, 1.0),
    ),
    words(
        "attention-other-scale",
        lambda net, x: torch_attention(x),
        lambda net, x: multiplied_attention(x, 0.5),
        lambda net, x: multiplied_attention(x, 8**-0.5),
    ),
    words(
        "attention-other-scale",
        lambda net, x: torch_attention(x),
        lambda net, x: jax_attention(x),
        lambda net, x: jax_attention(x, scale=8**-0.5),
    ),
    words(
        "attention-causal",
        lambda net, x: torch_attention(x, is_causal=True),
        lambda net, x: jax_attention(x, is_causal=True),
        lambda net, x: written_attention(x, 0.5),
    ),
    words(
        "attention-not-causal",
        lambda net, x: torch_attention(x),
        lambda net, x: jax_attention(x),
        lambda net, x: jax_attention(x, is_causal=True),
    ),
    words(
        "attention-not-causal",
        lambda net, x: torch_attention(x),
        lambda net, x: written_attention(x, 0.5),
        lambda net, x: causal_attention(x),
    ),
    words(
        "causal-mask",
        lambda net, x: torch_attention(x, is_causal=True),
        lambda net, x: causal_attention(x),
        lambda net, x: causal_attention(x, 1),
    ),
    words(
        "causal-mask",
        lambda net, x: torch_attention(x, is_causal=True),
        lambda net, x: causal_attention(x),
        lambda net, x: written_attention(x, 0.5, jnp.tri(x.shape[1], k=1, dtype=bool)[None, None], -jnp.inf),
    ),
    words(
        "mask-fill",
        lambda net, x: torch_attention(x, attn_mask=torch.tensor(KEPT)),
        lambda net, x: written_attention(x, 0.5, jnp.asarray(KEPT), -1e9),
        lambda net, x: written_attention(x, 0.5, jnp.asarray(KEPT), -5.0),
    ),
    words(
        "mask-polarity",
        lambda net, x: torch_attention(x, attn_mask=torch.tensor(KEPT)),
        lambda net, x: jax_attention(x, mask=jnp.asarray(KEPT)),
        lambda net, x: written_attention(x, 0.5, ~jnp.asarray(KEPT), -1e9),
    ),
    words(
        "mask-value",
        torch_added_mask,
        lambda net, x: jax_attention(x, bias=jnp.where(jnp.asarray(ROW_HIDDEN), 0.0, -1e4).astype(x.dtype)),
        lambda net, x: written_attention(x, 0.5, jnp.asarray(ROW_HIDDEN), -1e9),
    ),
    words(
        "mask-value-finite",
        torch_filled_mask,
        lambda net, x: written_attention(x, 0.5, jnp.asarray(ROW_HIDDEN), jnp.finfo(x.dtype).min),
        lambda net, x: written_attention(x, 0.5, jnp.asarray(ROW_HIDDEN), -jnp.inf),
    ),
    words(
        "heads-tiled",
        lambda net, x: torch_grouped(x, True),
        lambda net, x: jax_grouped(x, True),
        lambda net, x: jax_grouped(x, False),
    ),
    words(
        "heads-repeated",
        lambda net, x: torch_grouped(x, False),
        lambda net, x: jax_grouped(x, False),
        lambda net, x: jax_grouped(x, True),
    ),
    words(
        "rotary-interleaved",
        lambda net, x: torch_rotate_pairs(x),
        lambda net, x: apply_rotary_pairs(x),
        lambda net, x: apply_rotary(x),
    ),
    words(
        "rotary-halves",
        lambda net, x: torch_rotate_halves(x),
        lambda net, x: apply_rotary(x),
        lambda net, x: apply_rotary_pairs(x),
    ),
    words(
        "rotary-bfloat16",
        lambda net, x: torch_rotate_halves(x),
        lambda net, x: apply_rotary(x),
        lambda net, x: rotary_in_bfloat16(x),
    ),
    words(
        "rotary-base",
        lambda net, x: torch_rotary(x),
        lambda net, x: rotary(x),
        lambda net, x: rotary(x, base=500_000.0),
    ),
    words(
        "rotary-direction",
        lambda net, x: torch_rotary(x),
        lambda net, x: rotary(x),
        lambda net, x: rotary(x, sign=-1.0),
    ),
    dense(
        "dropout-on",
        layer,
        lambda net, x: net.layer(x, deterministic=True),
        lambda net, x: net.layer(x, deterministic=False),
        layers=lambda: {"layer": nn.Dropout(0.5).eval()},
        right_layers=flax_layers(nnx.Dropout, 0.5),
    ),
)
