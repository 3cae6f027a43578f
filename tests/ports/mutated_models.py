"""The models and functions of `examples/ports` with a mistake in each, which `mutations.py` plants."""

from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from examples.ports import timm_vit
from examples.ports.gpt import haiku_model as haiku_gpt
from examples.ports.gpt import nnx_model as gpt
from examples.ports.gpt.rotary import angles, rotate
from examples.ports.gru_tagger import linen_model as linen_tagger
from examples.ports.gru_tagger import nnx_model as tagger
from examples.ports.resnet import equinox_model as equinox_resnet
from examples.ports.resnet import nnx_model as resnet
from examples.ports.vit import nnx_model as vit


def identity(x: jax.Array) -> jax.Array:
    return x


def quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def twice_gelu(x: jax.Array) -> jax.Array:
    return vit.gelu(vit.gelu(x))


def flipped_convolution(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel[::-1, ::-1], *arguments, **options)


def axes_swapped_convolution(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel.swapaxes(0, 1), *arguments, **options)


class ResNetPoolSame(resnet.ResNet):
    def pool(self, x: jax.Array) -> jax.Array:
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


class ResNetAveragePool(resnet.ResNet):
    def pool(self, x: jax.Array) -> jax.Array:
        return nnx.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


class ResNetGlobalMax(resnet.ResNet):
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.blocks(self.pool(self.activation(self.norm(self.conv(x)))))
        return self.head(x.max((1, 2)))


class ResNetActivationFirst(resnet.ResNet):
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.blocks(self.pool(self.norm(self.activation(self.conv(x)))))
        return self.head(x.mean((1, 2)))


class BasicBlockNoResidual(resnet.BasicBlock):
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(y)))


class BasicBlockLateResidual(resnet.BasicBlock):
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(y))) + self.shortcut(x)


class BasicBlockTwiceActivated(resnet.BasicBlock):
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(self.norm1(self.conv1(x)))
        y = self.activation(self.norm2(self.conv2(y)))
        return self.activation(y + self.shortcut(x))


class EquinoxBlockNoResidual(equinox_resnet.BasicBlock):
    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(self.activation(y)), state)
        return self.activation(y), state


class EquinoxBlockLateResidual(equinox_resnet.BasicBlock):
    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(self.activation(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return self.activation(y) + x, state


class QkvByHead(vit.Attention):
    def split(self, x: jax.Array) -> jax.Array:
        batch, tokens, _ = x.shape
        return x.reshape(batch, tokens, self.heads, 3, -1).transpose(3, 0, 2, 1, 4)


class ChannelsBeforeHeads(vit.Attention):
    def split(self, x: jax.Array) -> jax.Array:
        batch, tokens, _ = x.shape
        return x.reshape(batch, tokens, 3, -1, self.heads).transpose(2, 0, 4, 1, 3)


class KeysFirst(vit.Attention):
    def split(self, x: jax.Array) -> jax.Array:
        q, k, v = super().split(x)
        return jnp.stack([k, q, v])


class UnmergedHeads(vit.Attention):
    def merge(self, x: jax.Array) -> jax.Array:
        batch, _, tokens, _ = x.shape
        return x.reshape(batch, tokens, -1)


class SoftmaxOverQueries(vit.Attention):
    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.split(self.qkv(x))
        weights = jax.nn.softmax(self.scale * q @ k.swapaxes(-1, -2), axis=-2)
        return self.out(self.merge(weights @ v))


class SoftmaxInBfloat16(vit.Attention):
    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.split(self.qkv(x))
        scores = self.scale * q @ k.swapaxes(-1, -2)
        return self.out(self.merge(jax.nn.softmax(scores.astype("bfloat16"), axis=-1).astype(x.dtype) @ v))


class CausalViTAttention(vit.Attention):
    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.split(self.qkv(x))
        scores = self.scale * q @ k.swapaxes(-1, -2)
        scores = jnp.where(jnp.tri(x.shape[1], dtype=bool), scores, -jnp.inf)
        return self.out(self.merge(jax.nn.softmax(scores, axis=-1) @ v))


class BuiltInAttention(vit.Attention):
    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.split(self.qkv(x)).swapaxes(2, 3)
        return self.out(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


class PostNormBlock(vit.Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class ResidualOfNormed(vit.Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm1(x)
        x = y + self.attention(y)
        return x + self.mlp(self.norm2(x))


class NoMLPResidual(vit.Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return self.mlp(self.norm2(x))


class LastToken(vit.ViT):
    def pool(self, x: jax.Array) -> jax.Array:
        return x[:, -1]


class MeanOfTokens(vit.ViT):
    def pool(self, x: jax.Array) -> jax.Array:
        return x.mean(1)


class ClsTokenLast(vit.ViT):
    def tokens(self, x: jax.Array) -> jax.Array:
        return jnp.roll(super().tokens(x), -1, axis=1)

    def pool(self, x: jax.Array) -> jax.Array:
        return x[:, -1]


class PatchesByColumn(vit.ViT):
    def tokens(self, x: jax.Array) -> jax.Array:
        return super().tokens(x.swapaxes(1, 2))


class NoPositions(vit.ViT):
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.dropout(self.tokens(self.patches(x)))
        return self.head(self.pool(self.norm(self.blocks(x))))


class GRUGates(tagger.GRUCell):
    """A cell that splits its products once, for those that combine them otherwise."""

    def combine(self, state: jax.Array, inputs: list[jax.Array], hiddens: list[jax.Array]) -> jax.Array:
        raise NotImplementedError

    def __call__(self, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = self.combine(state, jnp.split(self.input(x), 3, axis=-1), jnp.split(self.hidden(state), 3, axis=-1))
        return state, state


class ResetBeforeProduct(GRUGates):
    def combine(self, state: jax.Array, inputs: list[jax.Array], hiddens: list[jax.Array]) -> jax.Array:
        reset, update = nnx.sigmoid(inputs[0] + hiddens[0]), nnx.sigmoid(inputs[1] + hiddens[1])
        kernel, bias = jnp.split(self.hidden.kernel[...], 3, 1)[2], jnp.split(self.hidden.bias[...], 3)[2]
        new = jnp.tanh(inputs[2] + (reset * state) @ kernel + bias[None])
        return (1 - update) * new + update * state


class BiasBehindReset(GRUGates):
    def combine(self, state: jax.Array, inputs: list[jax.Array], hiddens: list[jax.Array]) -> jax.Array:
        reset, update = nnx.sigmoid(inputs[0] + hiddens[0]), nnx.sigmoid(inputs[1] + hiddens[1])
        bias = jnp.split(self.hidden.bias[...], 3)[2][None]
        new = jnp.tanh(inputs[2] + reset * (hiddens[2] - bias) + bias)
        return (1 - update) * new + update * state


class UpdateGateFirst(GRUGates):
    def combine(self, state: jax.Array, inputs: list[jax.Array], hiddens: list[jax.Array]) -> jax.Array:
        update, reset = nnx.sigmoid(inputs[0] + hiddens[0]), nnx.sigmoid(inputs[1] + hiddens[1])
        new = jnp.tanh(inputs[2] + reset * hiddens[2])
        return (1 - update) * new + update * state


class UpdateKeepsNew(GRUGates):
    def combine(self, state: jax.Array, inputs: list[jax.Array], hiddens: list[jax.Array]) -> jax.Array:
        reset, update = nnx.sigmoid(inputs[0] + hiddens[0]), nnx.sigmoid(inputs[1] + hiddens[1])
        new = jnp.tanh(inputs[2] + reset * hiddens[2])
        return update * new + (1 - update) * state


class HardSigmoid(GRUGates):
    def combine(self, state: jax.Array, inputs: list[jax.Array], hiddens: list[jax.Array]) -> jax.Array:
        reset, update = nnx.hard_sigmoid(inputs[0] + hiddens[0]), nnx.hard_sigmoid(inputs[1] + hiddens[1])
        new = jnp.tanh(inputs[2] + reset * hiddens[2])
        return (1 - update) * new + update * state


class StartsAtOne(tagger.GRUCell):
    def initialize_carry(self, input_shape: tuple[int, ...], *arguments: Any, **options: Any) -> jax.Array:
        return jnp.ones_like(super().initialize_carry(input_shape))


class BackwardFirst(tagger.Tagger):
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens)
        return self.head(jnp.concatenate([self.backward(x), self.forward(x)], axis=-1))


class ScaledTaggerEmbedding(tagger.Tagger):
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens)
        x = x * x.shape[-1] ** 0.5
        return self.head(jnp.concatenate([self.forward(x), self.backward(x)], axis=-1))


class LinenTrainedPadding(linen_tagger.Tagger):
    def embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding(tokens)


class LinenScaledEmbedding(linen_tagger.Tagger):
    def embed(self, tokens: jax.Array) -> jax.Array:
        return super().embed(tokens) * self.width**0.5


class InterleavedRotary(gpt.Attention):
    def rotate(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        halves = x.reshape(*x.shape[:-1], channels // 2, 2).swapaxes(-1, -2).reshape(x.shape)
        return rotate(halves, self.base)  # of q and k alike, so that their product needs no way back


class ReversedRotary(gpt.Attention):
    def rotate(self, x: jax.Array) -> jax.Array:
        first, second = jnp.split(x, 2, axis=-1)
        angle = angles(x.shape[-2], x.shape[-1], self.base, x.dtype)
        cos, sin = jnp.cos(angle)[None, None], jnp.sin(angle)[None, None]
        return jnp.concatenate([first * cos + second * sin, second * cos - first * sin], axis=-1)


class RotaryInBfloat16(gpt.Attention):
    def rotate(self, x: jax.Array) -> jax.Array:
        return rotate(x.astype("bfloat16"), self.base).astype(x.dtype)


class NoRotary(gpt.Attention):
    def rotate(self, x: jax.Array) -> jax.Array:
        return x


class TiledHeads(gpt.Attention):
    def repeat(self, x: jax.Array) -> jax.Array:
        return jnp.tile(x, (1, self.queries_per_key, 1, 1))


class NoMask(gpt.Attention):
    def mask(self, tokens: int) -> jax.Array:
        return jnp.ones((tokens, tokens), bool)


class SeesNext(gpt.Attention):
    def mask(self, tokens: int) -> jax.Array:
        return jnp.tri(tokens, k=1, dtype=bool)


class InvertedMask(gpt.Attention):
    def mask(self, tokens: int) -> jax.Array:
        return jnp.tri(tokens, dtype=bool).T


class MaskedByMinusTen(gpt.Attention):
    def __call__(self, x: jax.Array) -> jax.Array:
        q = self.rotate(self.split(self.query(x)))
        k = self.repeat(self.rotate(self.split(self.key(x))))
        v = self.repeat(self.split(self.value(x)))
        scores = self.scale * q @ k.swapaxes(-1, -2)
        mask = jnp.broadcast_to(self.mask(x.shape[1]), scores.shape)
        weights = jax.nn.softmax(jnp.where(mask, scores, -10.0), axis=-1)
        return self.out((weights @ v).swapaxes(1, 2).reshape(x.shape))


class EpsilonOutsideRoot(nnx.RMSNorm):
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        return x / (jnp.sqrt((x**2).mean(-1, keepdims=True)) + self.epsilon) * self.scale[...].reshape(1, 1, -1)


class Centered(nnx.RMSNorm):
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        return super().__call__(x - x.mean(-1, keepdims=True), mask)


class ScaleFromOne(nnx.RMSNorm):
    def __call__(self, x: jax.Array, mask: Any = None) -> jax.Array:
        root = jnp.sqrt((x**2).mean(-1, keepdims=True) + self.epsilon)
        return x / root * (1 + self.scale[...].reshape(1, 1, -1))


class SwappedGate(gpt.MLP):
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(self.gate(x) * self.activation(self.up(x)))


class ParallelBlock(gpt.Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.attention(self.norm1(x)) + self.mlp(self.norm2(x))


class GPTPostNorm(gpt.Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class NoAttentionResidual(gpt.Block):
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ScaledGPTEmbedding(gpt.GPT):
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens)
        x = x * x.shape[-1] ** 0.5
        for block in self.blocks:
            x = block(x)
        return self.embedding.attend(self.norm(x))


class ScaledLogits(gpt.GPT):
    def __call__(self, tokens: jax.Array) -> jax.Array:
        return super().__call__(tokens) * self.embedding.features**-0.5


class NoFinalNorm(gpt.GPT):
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embedding.attend(x)


class UntiedGPT(gpt.GPT):
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def scaled_embedding(next_method: Any, arguments: Any, options: Any, context: Any) -> Any:
    output = next_method(*arguments, **options)
    is_embedding = isinstance(context.module, hk.Embed) and context.method_name == "__call__"
    return output * output.shape[-1] ** 0.5 if is_embedding else output


class HaikuScaledEmbedding(haiku_gpt.GPT):
    def __call__(self, tokens: jax.Array) -> jax.Array:
        with hk.intercept_methods(scaled_embedding):
            return super().__call__(tokens)


class HaikuScaledLogits(haiku_gpt.GPT):
    def __call__(self, tokens: jax.Array) -> jax.Array:
        return super().__call__(tokens) * self.width**-0.5


class QuerySoftmaxTimm(timm_vit.Attention):
    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = jax.nn.softmax(self.scale * jnp.einsum("bqhc,bkhc->bhqk", q, k), axis=-2)
        return self.out(jnp.einsum("bhqk,bkhc->bqhc", weights, v))
