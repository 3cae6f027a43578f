"""Mistakes to plant in the ports of `examples/ports`, one at a time or several at once."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import flax.linen as nn
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
from examples.ports.pairs import Dtype, Pair
from examples.ports.resnet import equinox_model as equinox_resnet
from examples.ports.resnet import nnx_model as resnet
from examples.ports.vit import nnx_model as vit

PAIRS = {
    "resnet": "examples.ports.resnet.pair",
    "vit": "examples.ports.vit.pair",
    "gru_tagger": "examples.ports.gru_tagger.pair",
    "gpt": "examples.ports.gpt.pair",
    "torchvision_resnet18": "examples.ports.torchvision_resnet18",
    "timm_vit": "examples.ports.timm_vit",
}


def make_pair(name: str, dtype: Dtype = "float32") -> Pair:
    return importlib.import_module(PAIRS[name]).pair(dtype)


Plant = Callable[[Any], Any]
Shows = Literal["forward", "backward", "training", "mode", "float64"]


@dataclasses.dataclass(frozen=True)
class Mutation:
    name: str
    pair: str
    """The pair's name in `PAIRS`."""
    kind: str
    """The JAX side that is changed: "nnx", "linen", "equinox" or "haiku"."""
    cause: str
    paths: tuple[str, ...]
    """The modules that compute something else: each a leaf, or the module whose own code is wrong ("" is the model)."""
    plant: Plant
    """Takes a fresh JAX model, which it may change; returns the mutated one."""
    shows: Shows = "forward"
    """Which pass differs: the forward pass in evaluation, only gradients, only training, or only float64's values.

    "mode" is the forward pass of a model that was left in training mode, in which no check runs it.
    """
    also: str = ""
    """A second cause that it plants."""


def at(model: Any, path: str) -> Any:
    """Returns the submodule of an NNX or Equinox model."""
    for name in path.split(".") if path else []:
        model = model[int(name)] if name.isdigit() else getattr(model, name)
    return model


def setting(paths: tuple[str, ...], **attributes: Any) -> Plant:
    """Returns a plant that sets attributes of modules, `__class__` included."""

    def plant(model: Any) -> Any:
        root = model[0] if isinstance(model, tuple) else model  # Equinox: model and state
        for path in paths:
            module = at(root, path)
            for name, value in attributes.items():
                if isinstance(module, nnx.Module):
                    setattr(module, name, value)
                else:
                    object.__setattr__(module, name, value)  # frozen
        return model

    return plant


def linen(**fields: Any) -> Plant:
    """Returns a plant that changes fields of a linen module; its variables stay."""
    return lambda model: (model[0].clone(**fields), model[1])


def linen_class(subclass: type[nn.Module]) -> Plant:
    """Returns a plant that makes a linen module one of `subclass`; its variables stay."""

    def plant(model: Any) -> Any:
        module, variables = model
        names = [field.name for field in dataclasses.fields(module) if field.name not in ("parent", "name")]
        return subclass(**{name: getattr(module, name) for name in names}), variables

    return plant


def haiku(subclass: type[Any]) -> Plant:
    """Returns a plant that makes the Haiku model one of `subclass`; its parameters stay."""
    return lambda model: (hk.without_apply_rng(hk.transform(lambda tokens: subclass()(tokens))), model[1])


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


def untie(model: gpt.GPT) -> gpt.GPT:
    embedding = model.embedding
    head = nnx.Linear(
        embedding.features,
        embedding.num_embeddings,
        use_bias=False,
        param_dtype=embedding.dtype,
        rngs=nnx.Rngs(1),
    )
    return setting(("",), __class__=UntiedGPT, head=head)(model)


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


BLOCK = "blocks.layers.{}".format
VIT_NORMS = ("norm", *[f"{BLOCK(i)}.norm{k}" for i in range(3) for k in (1, 2)])
VIT_MLPS = tuple(f"{BLOCK(i)}.mlp" for i in range(3))
LINEN_NORMS = ("norm", *[f"block{i}.norm{k}" for i in range(3) for k in (1, 2)])
LINEN_BLOCKS = tuple(f"block{i}" for i in range(3))
GPT_NORMS = ("norm", *[f"blocks.{i}.norm{k}" for i in range(2) for k in (1, 2)])
GPT_ATTENTIONS = ("blocks.0.attention", "blocks.1.attention")
TIMM_NORMS = ("norm", *[f"blocks.{i}.norm{k}" for i in range(12) for k in (1, 2)])
TIMM_BLOCKS = tuple(f"blocks.{i}" for i in range(12))
STRIDED = tuple(f"{BLOCK(i)}.conv1" for i in (2, 4, 6))  # of ResNet-18


def nnx_mutations(pair: str) -> Callable[..., Mutation]:
    """Returns a function that makes a mutation of the pair's NNX side by attributes."""

    def mutation(
        name: str, cause: str, *paths: str, shows: Shows = "forward", also: str = "", **attributes: Any
    ) -> Mutation:
        return Mutation(f"{pair}/{name}", pair, "nnx", cause, paths, setting(paths, **attributes), shows, also)

    return mutation


def equinox_mutation(name: str, cause: str, *paths: str, **attributes: Any) -> Mutation:
    return Mutation(f"resnet/equinox-{name}", "resnet", "equinox", cause, paths, setting(paths, **attributes))


of_resnet, of_vit, of_tagger, of_gpt, of_torchvision, of_timm = map(nnx_mutations, PAIRS)

RESNET = (
    of_resnet("stem-same", "conv-padding", "conv", padding="SAME"),
    of_resnet("block-same", "conv-padding", BLOCK(2) + ".conv1", padding="SAME"),
    of_resnet("block-reflect", "conv-padding", BLOCK(1) + ".conv2", padding="REFLECT"),
    of_resnet("pool-same", "pool-padding", "", __class__=ResNetPoolSame),
    of_resnet("average-pool", "pool-max", "", __class__=ResNetAveragePool),
    of_resnet("global-max", "pooling", "", __class__=ResNetGlobalMax),
    of_resnet("norm-epsilon-keras", "norm-epsilon", "norm", epsilon=1e-3),
    of_resnet("block-norm-epsilon", "norm-epsilon", BLOCK(3) + ".norm2", epsilon=1e-6),
    of_resnet("momentum", "batch-norm-momentum", BLOCK(0) + ".norm1", momentum=0.1, shows="training"),
    of_resnet("momentum-flax", "batch-norm-momentum", "norm", momentum=0.99, shows="training"),
    of_resnet("biased-variance", "batch-norm-running-variance", "norm", __class__=nnx.BatchNorm, shows="training"),
    of_resnet("batch-statistics", "batch-norm-mode", BLOCK(1) + ".norm1", use_running_average=False, shows="mode"),
    of_resnet("stem-activation", "activation-left-out", "", activation=identity),
    of_resnet("block-activation", "activation-left-out", BLOCK(4), activation=identity),
    of_resnet("leaky", "activation-relu", BLOCK(1), activation=jax.nn.leaky_relu),
    of_resnet("activation-first", "norm-order", "", __class__=ResNetActivationFirst),
    of_resnet("no-residual", "residual-left-out", BLOCK(1), __class__=BasicBlockNoResidual),
    of_resnet("late-residual", "residual-order", BLOCK(3), __class__=BasicBlockLateResidual),
    of_resnet("twice-activated", "residual-order", BLOCK(5), __class__=BasicBlockTwiceActivated),  # as x >= 0
    of_resnet("kernel-flip", "conv-kernel-flip", BLOCK(0) + ".conv2", conv_general_dilated=flipped_convolution),
    of_resnet("kernel-axes", "kernel-axes", "conv", conv_general_dilated=axes_swapped_convolution),
    of_resnet("dilation", "conv-dilation", BLOCK(1) + ".conv1", kernel_dilation=2, padding=2, also="conv-padding"),
    of_resnet("bfloat16", "layers-bfloat16", BLOCK(2) + ".conv2", dtype=jnp.bfloat16),
    of_resnet("head-bias", "bias-left-out", "head", use_bias=False, bias=None),
    equinox_mutation("stem-same", "conv-padding", "conv", padding=((2, 3), (2, 3))),
    equinox_mutation("norm-epsilon", "norm-epsilon", "blocks.2.norm1", eps=1e-3),
    equinox_mutation("activation", "activation-left-out", "blocks.0", activation=identity),
    equinox_mutation("gelu", "activation-relu", "blocks.1", activation=jax.nn.gelu),
    equinox_mutation("pool-same", "pool-padding", "pool", padding=((0, 1), (0, 1))),
    equinox_mutation("no-residual", "residual-left-out", "blocks.3", __class__=EquinoxBlockNoResidual),
    equinox_mutation("late-residual", "residual-order", "blocks.1", __class__=EquinoxBlockLateResidual),
)
VIT = (
    of_vit("gelu-tanh", "gelu-tanh", BLOCK(0) + ".mlp", activation=jax.nn.gelu),
    of_vit("gelu-tanh-everywhere", "gelu-tanh", *VIT_MLPS, activation=jax.nn.gelu),
    of_vit("gelu-quick", "activation-gelu", BLOCK(1) + ".mlp", activation=quick_gelu),
    of_vit("relu", "activation-gelu", BLOCK(2) + ".mlp", activation=jax.nn.relu),
    of_vit("no-activation", "activation-left-out", BLOCK(1) + ".mlp", activation=identity),
    of_vit("activation-twice", "activation-doubled", BLOCK(0) + ".mlp", activation=twice_gelu),
    of_vit("norm-epsilon", "norm-epsilon", BLOCK(1) + ".norm1", epsilon=1e-6),
    of_vit("norm-epsilon-everywhere", "norm-epsilon", *VIT_NORMS, epsilon=1e-6),
    of_vit("norm-epsilon-last", "norm-epsilon", "norm", epsilon=1e-12),
    of_vit("norm-bias", "bias-left-out", BLOCK(2) + ".norm2", use_bias=False, bias=None),
    of_vit("norm-missing", "norm-missing", "", norm=identity),
    of_vit("attention-scale-width", "attention-other-scale", BLOCK(0) + ".attention", scale=32**-0.5),
    of_vit("attention-scale-none", "attention-scale", BLOCK(2) + ".attention", scale=1.0),
    of_vit("head-count", "attention-heads", BLOCK(1) + ".attention", heads=2),
    of_vit("qkv-by-head", "qkv-order", BLOCK(0) + ".attention", __class__=QkvByHead),
    of_vit("keys-first", "qkv-order", BLOCK(2) + ".attention", __class__=KeysFirst),
    of_vit("channels-before-heads", "head-layout", BLOCK(1) + ".attention", __class__=ChannelsBeforeHeads),
    of_vit("unmerged-heads", "head-layout", BLOCK(2) + ".attention", __class__=UnmergedHeads),
    of_vit("softmax-axis", "softmax-last-axis", BLOCK(0) + ".attention", __class__=SoftmaxOverQueries),
    of_vit("softmax-bfloat16", "low-precision", BLOCK(1) + ".attention", __class__=SoftmaxInBfloat16),
    of_vit("causal", "attention-not-causal", BLOCK(2) + ".attention", __class__=CausalViTAttention),
    of_vit(
        "float32-attention", "attention-float32", BLOCK(0) + ".attention", __class__=BuiltInAttention, shows="float64"
    ),
    of_vit("attention-bias", "bias-left-out", BLOCK(1) + ".attention.out", use_bias=False, bias=None),
    of_vit("post-norm", "norm-order", BLOCK(1), __class__=PostNormBlock),
    of_vit("residual-of-normed", "residual-norm", BLOCK(2), __class__=ResidualOfNormed),
    of_vit("no-mlp-residual", "residual-left-out", BLOCK(0), __class__=NoMLPResidual),
    of_vit("last-token", "pooling", "", __class__=LastToken),
    of_vit("mean-of-tokens", "pooling", "", __class__=MeanOfTokens),
    of_vit("cls-token-last", "cls-token", "", __class__=ClsTokenLast),
    of_vit("patches-by-column", "patch-order", "", __class__=PatchesByColumn),
    of_vit("no-positions", "positions-left-out", "", __class__=NoPositions),
    of_vit("dropout-on", "dropout-on", BLOCK(1) + ".mlp.dropout1", deterministic=False, shows="mode"),
    of_vit("patch-kernel-flip", "conv-kernel-flip", "patches", conv_general_dilated=flipped_convolution),
    Mutation("vit/linen-norm-epsilon", "vit", "linen", "norm-epsilon", LINEN_NORMS, linen(norm=nn.LayerNorm)),
    Mutation("vit/linen-gelu-tanh", "vit", "linen", "gelu-tanh", LINEN_BLOCKS, linen(activation=nn.gelu)),
    Mutation("vit/linen-relu", "vit", "linen", "activation-gelu", LINEN_BLOCKS, linen(activation=nn.relu)),
    Mutation(
        "vit/linen-no-activation", "vit", "linen", "activation-left-out", LINEN_BLOCKS, linen(activation=identity)
    ),
)
GRU_TAGGER = (
    of_tagger("no-hidden-bias", "gru-two-biases", "forward.cell.hidden", use_bias=False, bias=None),
    of_tagger("bias-behind-reset", "gru-two-biases", "forward.cell", __class__=BiasBehindReset),
    of_tagger("reset-before-product", "gru-reset", "backward.cell", __class__=ResetBeforeProduct),
    of_tagger("update-gate-first", "gru-gate-order", "forward.cell", __class__=UpdateGateFirst),
    of_tagger("update-keeps-new", "gru-update", "backward.cell", __class__=UpdateKeepsNew),
    of_tagger("hard-sigmoid", "activation-sigmoid", "forward.cell", __class__=HardSigmoid),
    of_tagger("starts-at-one", "recurrent-start", "backward.cell", __class__=StartsAtOne),
    of_tagger("reversed-output", "recurrent-direction", "backward", keep_order=False),
    of_tagger("forward-twice", "recurrent-direction", "backward", reverse=False),
    of_tagger("backward-first", "channels-permuted", "", __class__=BackwardFirst),
    of_tagger("trained-padding", "padding-index", "embedding", __class__=nnx.Embed, shows="backward"),
    of_tagger("scaled-embedding", "embedding-unscaled", "", __class__=ScaledTaggerEmbedding),
    of_tagger("head-bias", "bias-left-out", "head", use_bias=False, bias=None),
    Mutation(
        "gru_tagger/linen-trained-padding",
        "gru_tagger",
        "linen",
        "padding-index",
        ("embedding",),
        linen_class(LinenTrainedPadding),
        shows="backward",
    ),
    Mutation(
        "gru_tagger/linen-scaled-embedding",
        "gru_tagger",
        "linen",
        "embedding-unscaled",
        ("",),
        linen_class(LinenScaledEmbedding),
    ),
)
GPT = (
    of_gpt("rope-interleaved", "rotary-halves", *GPT_ATTENTIONS, __class__=InterleavedRotary),
    of_gpt("rope-base", "rotary-base", *GPT_ATTENTIONS, base=500_000.0),
    of_gpt("rope-reversed", "rotary-direction", "blocks.0.attention", __class__=ReversedRotary),
    of_gpt("rope-missing", "rotary-left-out", "blocks.1.attention", __class__=NoRotary),
    of_gpt("rope-bfloat16", "low-precision", *GPT_ATTENTIONS, __class__=RotaryInBfloat16),
    of_gpt("tiled-heads", "heads-repeated", *GPT_ATTENTIONS, __class__=TiledHeads),
    of_gpt("no-mask", "causal-mask", "blocks.0.attention", __class__=NoMask),
    of_gpt("sees-next", "causal-mask", "blocks.1.attention", __class__=SeesNext),
    of_gpt("inverted-mask", "causal-mask", "blocks.0.attention", __class__=InvertedMask),
    of_gpt("mask-minus-ten", "mask-fill", "blocks.1.attention", __class__=MaskedByMinusTen),
    of_gpt("attention-scale-none", "attention-scale", "blocks.0.attention", scale=1.0),
    of_gpt("attention-scale-width", "attention-other-scale", "blocks.1.attention", scale=32**-0.5),
    of_gpt("norm-epsilon", "norm-epsilon", "blocks.0.norm2", epsilon=1e-6),
    of_gpt("norm-epsilon-everywhere", "norm-epsilon", *GPT_NORMS, epsilon=1e-6),
    of_gpt("epsilon-outside-root", "norm-epsilon-place", "norm", __class__=EpsilonOutsideRoot),
    of_gpt("centered-norm", "norm-kind", "blocks.1.norm1", __class__=Centered),
    of_gpt("scale-from-one", "norm-scale", "blocks.0.norm1", __class__=ScaleFromOne),
    of_gpt("gelu-for-silu", "activation-silu", "blocks.0.mlp", activation=vit.gelu),
    of_gpt("no-activation", "activation-left-out", "blocks.1.mlp", activation=identity),
    of_gpt("swapped-gate", "gate-swapped", "blocks.1.mlp", __class__=SwappedGate),
    of_gpt("parallel-block", "residual-left-out", "blocks.1", __class__=ParallelBlock),
    of_gpt("post-norm", "norm-order", "blocks.0", __class__=GPTPostNorm),
    of_gpt("no-attention-residual", "residual-left-out", "blocks.1", __class__=NoAttentionResidual),
    of_gpt("scaled-embedding", "embedding-unscaled", "", __class__=ScaledGPTEmbedding),
    of_gpt("scaled-logits", "constant-factor", "", __class__=ScaledLogits),
    of_gpt("no-final-norm", "norm-missing", "", __class__=NoFinalNorm),
    of_gpt("bfloat16", "layers-bfloat16", "blocks.0.mlp.down", dtype=jnp.bfloat16),
    Mutation("gpt/untied", "gpt", "nnx", "tied-weights", ("", "embedding"), untie),
    Mutation(
        "gpt/haiku-scaled-embedding",
        "gpt",
        "haiku",
        "embedding-unscaled",
        ("gpt.embedding",),
        haiku(HaikuScaledEmbedding),
    ),
    Mutation("gpt/haiku-scaled-logits", "gpt", "haiku", "constant-factor", ("gpt",), haiku(HaikuScaledLogits)),
)
TORCHVISION = (
    of_torchvision("strided-same", "conv-padding", *STRIDED, padding="SAME"),
    of_torchvision("pool-same", "pool-padding", "", __class__=ResNetPoolSame),
    of_torchvision("norm-epsilon", "norm-epsilon", BLOCK(7) + ".norm1", epsilon=1e-3),
    of_torchvision("momentum", "batch-norm-momentum", "norm", momentum=0.1, shows="training"),
    of_torchvision("activation", "activation-left-out", BLOCK(6), activation=identity),
    of_torchvision("late-residual", "residual-order", BLOCK(4), __class__=BasicBlockLateResidual),
)
TIMM = (
    of_timm("gelu-tanh", "gelu-tanh", *TIMM_BLOCKS, activation=jax.nn.gelu),
    of_timm("norm-epsilon", "norm-epsilon", *TIMM_NORMS, epsilon=1e-5),
    of_timm("norm-epsilon-last", "norm-epsilon", "norm", epsilon=1e-5),
    of_timm("attention-scale", "attention-other-scale", "blocks.7.attention", scale=192**-0.5),
    of_timm("softmax-axis", "softmax-last-axis", "blocks.11.attention", __class__=QuerySoftmaxTimm),
    of_timm("query-bias", "bias-left-out", "blocks.3.attention.query", use_bias=False, bias=None),
)
MUTATIONS = (*RESNET, *VIT, *GRU_TAGGER, *GPT, *TORCHVISION, *TIMM)
