"""timm's ViT-tiny and its port to Flax NNX, with q, k and v from products of their own."""

from functools import partial

import jax
import jax.numpy as jnp
import timm
import torch
from flax import nnx

from examples.ports.pairs import Dtype, JaxSide, Pair, cast, perturbed

LayerNorm = partial(nnx.LayerNorm, epsilon=1e-6)  # timm's too; torch's own default is 1e-5


class Attention(nnx.Module):
    """Attention of all tokens to all; products keep the heads apart: (batch, tokens, heads, channels)."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        channels = width // heads
        self.scale = channels**-0.5
        self.query = nnx.LinearGeneral(width, (heads, channels), rngs=rngs)
        self.key = nnx.LinearGeneral(width, (heads, channels), rngs=rngs)
        self.value = nnx.LinearGeneral(width, (heads, channels), rngs=rngs)
        self.out = nnx.LinearGeneral((heads, channels), width, axis=(-2, -1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = jax.nn.softmax(self.scale * jnp.einsum("bqhc,bkhc->bhqk", q, k), axis=-1)
        return self.out(jnp.einsum("bhqk,bkhc->bqhc", weights, v))


class Block(nnx.Module):
    """Attention and an MLP, each behind a norm and beside a residual."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.norm1 = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, rngs)
        self.norm2 = LayerNorm(width, rngs=rngs)
        self.linear1 = nnx.Linear(width, 4 * width, rngs=rngs)
        self.linear2 = nnx.Linear(4 * width, width, rngs=rngs)
        self.activation = partial(jax.nn.gelu, approximate=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.linear2(self.activation(self.linear1(self.norm2(x))))


class ViT(nnx.Module):
    """Images (batch, size, size, 3) to logits (batch, classes)."""

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        classes: int = 1000,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.patches = nnx.Conv(3, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(jax.random.normal(rngs.params(), (1, 1, width)))
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, (size // patch) ** 2 + 1, width)))
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
        self.norm = LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x)
        x = x.reshape(len(x), -1, x.shape[-1])
        cls_token = jnp.broadcast_to(self.cls_token[...], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([cls_token, x], axis=1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def pair(dtype: Dtype = "float32", seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    images = torch.randn(2, 3, 64, 64).to(getattr(torch, dtype))
    model = timm.create_model("vit_tiny_patch16_224", img_size=64)
    port = ViT(size=64, rngs=nnx.Rngs(seed))
    return Pair(
        perturbed(model, dtype),
        (images,),
        {
            "nnx": JaxSide(
                cast(port, dtype), (jnp.asarray(images.permute(0, 2, 3, 1).numpy()),), lambda model, x: model(x)
            )
        },
    )
