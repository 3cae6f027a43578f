"""Mistakes to plant in the ports of `examples/ports`, one at a time or several at once."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import mutated_models as wrong
from flax import nnx

from examples.ports.gpt import nnx_model as gpt
from examples.ports.pairs import Dtype, Pair
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


def untie(model: gpt.GPT) -> gpt.GPT:
    embedding = model.embedding
    head = nnx.Linear(
        embedding.features,
        embedding.num_embeddings,
        use_bias=False,
        param_dtype=embedding.dtype,
        rngs=nnx.Rngs(1),
    )
    return setting(("",), __class__=wrong.UntiedGPT, head=head)(model)


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
    of_resnet("pool-same", "pool-padding", "", __class__=wrong.ResNetPoolSame),
    of_resnet("average-pool", "pool-max", "", __class__=wrong.ResNetAveragePool),
    of_resnet("global-max", "pooling", "", __class__=wrong.ResNetGlobalMax),
    of_resnet("norm-epsilon-keras", "norm-epsilon", "norm", epsilon=1e-3),
    of_resnet("block-norm-epsilon", "norm-epsilon", BLOCK(3) + ".norm2", epsilon=1e-6),
    of_resnet("momentum", "batch-norm-momentum", BLOCK(0) + ".norm1", momentum=0.1, shows="training"),
    of_resnet("momentum-flax", "batch-norm-momentum", "norm", momentum=0.99, shows="training"),
    of_resnet("biased-variance", "batch-norm-running-variance", "norm", __class__=nnx.BatchNorm, shows="training"),
    of_resnet("batch-statistics", "batch-norm-mode", BLOCK(1) + ".norm1", use_running_average=False, shows="mode"),
    of_resnet("stem-activation", "activation-left-out", "", activation=wrong.identity),
    of_resnet("block-activation", "activation-left-out", BLOCK(4), activation=wrong.identity),
    of_resnet("leaky", "activation-relu", BLOCK(1), activation=jax.nn.leaky_relu),
    of_resnet("activation-first", "norm-order", "", __class__=wrong.ResNetActivationFirst),
    of_resnet("no-residual", "residual-left-out", BLOCK(1), __class__=wrong.BasicBlockNoResidual),
    of_resnet("late-residual", "residual-order", BLOCK(3), __class__=wrong.BasicBlockLateResidual),
    of_resnet("twice-activated", "residual-order", BLOCK(5), __class__=wrong.BasicBlockTwiceActivated),  # as x >= 0
    of_resnet("kernel-flip", "conv-kernel-flip", BLOCK(0) + ".conv2", conv_general_dilated=wrong.flipped_convolution),
    of_resnet("kernel-axes", "kernel-axes", "conv", conv_general_dilated=wrong.axes_swapped_convolution),
    of_resnet("dilation", "conv-dilation", BLOCK(1) + ".conv1", kernel_dilation=2, padding=2, also="conv-padding"),
    of_resnet("bfloat16", "layers-bfloat16", BLOCK(2) + ".conv2", dtype=jnp.bfloat16),
    of_resnet("head-bias", "bias-left-out", "head", use_bias=False, bias=None),
    equinox_mutation("stem-same", "conv-padding", "conv", padding=((2, 3), (2, 3))),
    equinox_mutation("norm-epsilon", "norm-epsilon", "blocks.2.norm1", eps=1e-3),
    equinox_mutation("activation", "activation-left-out", "blocks.0", activation=wrong.identity),
    equinox_mutation("gelu", "activation-relu", "blocks.1", activation=jax.nn.gelu),
    equinox_mutation("pool-same", "pool-padding", "pool", padding=((0, 1), (0, 1))),
    equinox_mutation("no-residual", "residual-left-out", "blocks.3", __class__=wrong.EquinoxBlockNoResidual),
    equinox_mutation("late-residual", "residual-order", "blocks.1", __class__=wrong.EquinoxBlockLateResidual),
)
VIT = (
    of_vit("gelu-tanh", "gelu-tanh", BLOCK(0) + ".mlp", activation=jax.nn.gelu),
    of_vit("gelu-tanh-everywhere", "gelu-tanh", *VIT_MLPS, activation=jax.nn.gelu),
    of_vit("gelu-quick", "activation-gelu", BLOCK(1) + ".mlp", activation=wrong.quick_gelu),
    of_vit("relu", "activation-gelu", BLOCK(2) + ".mlp", activation=jax.nn.relu),
    of_vit("no-activation", "activation-left-out", BLOCK(1) + ".mlp", activation=wrong.identity),
    of_vit("activation-twice", "activation-doubled", BLOCK(0) + ".mlp", activation=wrong.twice_gelu),
    of_vit("norm-epsilon", "norm-epsilon", BLOCK(1) + ".norm1", epsilon=1e-6),
    of_vit("norm-epsilon-everywhere", "norm-epsilon", *VIT_NORMS, epsilon=1e-6),
    of_vit("norm-epsilon-last", "norm-epsilon", "norm", epsilon=1e-12),
    of_vit("norm-bias", "bias-left-out", BLOCK(2) + ".norm2", use_bias=False, bias=None),
    of_vit("norm-missing", "norm-missing", "", norm=wrong.identity),
    of_vit("attention-scale-width", "attention-other-scale", BLOCK(0) + ".attention", scale=32**-0.5),
    of_vit("attention-scale-none", "attention-scale", BLOCK(2) + ".attention", scale=1.0),
    of_vit("head-count", "attention-heads", BLOCK(1) + ".attention", heads=2),
    of_vit("qkv-by-head", "qkv-order", BLOCK(0) + ".attention", __class__=wrong.QkvByHead),
    of_vit("keys-first", "qkv-order", BLOCK(2) + ".attention", __class__=wrong.KeysFirst),
    of_vit("channels-before-heads", "head-layout", BLOCK(1) + ".attention", __class__=wrong.ChannelsBeforeHeads),
    of_vit("unmerged-heads", "head-layout", BLOCK(2) + ".attention", __class__=wrong.UnmergedHeads),
    of_vit("softmax-axis", "softmax-last-axis", BLOCK(0) + ".attention", __class__=wrong.SoftmaxOverQueries),
    of_vit("softmax-bfloat16", "low-precision", BLOCK(1) + ".attention", __class__=wrong.SoftmaxInBfloat16),
    of_vit("causal", "attention-not-causal", BLOCK(2) + ".attention", __class__=wrong.CausalViTAttention),
    of_vit(
        "float32-attention",
        "attention-float32",
        BLOCK(0) + ".attention",
        __class__=wrong.BuiltInAttention,
        shows="float64",
    ),
    of_vit("attention-bias", "bias-left-out", BLOCK(1) + ".attention.out", use_bias=False, bias=None),
    of_vit("post-norm", "norm-order", BLOCK(1), __class__=wrong.PostNormBlock),
    of_vit("residual-of-normed", "residual-norm", BLOCK(2), __class__=wrong.ResidualOfNormed),
    of_vit("no-mlp-residual", "residual-left-out", BLOCK(0), __class__=wrong.NoMLPResidual),
    of_vit("last-token", "pooling", "", __class__=wrong.LastToken),
    of_vit("mean-of-tokens", "pooling", "", __class__=wrong.MeanOfTokens),
    of_vit("cls-token-last", "cls-token", "", __class__=wrong.ClsTokenLast),
    of_vit("patches-by-column", "patch-order", "", __class__=wrong.PatchesByColumn),
    of_vit("no-positions", "positions-left-out", "", __class__=wrong.NoPositions),
    of_vit("dropout-on", "dropout-on", BLOCK(1) + ".mlp.dropout1", deterministic=False, shows="mode"),
    of_vit("patch-kernel-flip", "conv-kernel-flip", "patches", conv_general_dilated=wrong.flipped_convolution),
    Mutation("vit/linen-norm-epsilon", "vit", "linen", "norm-epsilon", LINEN_NORMS, linen(norm=nn.LayerNorm)),
    Mutation("vit/linen-gelu-tanh", "vit", "linen", "gelu-tanh", LINEN_BLOCKS, linen(activation=nn.gelu)),
    Mutation("vit/linen-relu", "vit", "linen", "activation-gelu", LINEN_BLOCKS, linen(activation=nn.relu)),
    Mutation(
        "vit/linen-no-activation", "vit", "linen", "activation-left-out", LINEN_BLOCKS, linen(activation=wrong.identity)
    ),
)
GRU_TAGGER = (
    of_tagger("no-hidden-bias", "gru-two-biases", "forward.cell.hidden", use_bias=False, bias=None),
    of_tagger("bias-behind-reset", "gru-two-biases", "forward.cell", __class__=wrong.BiasBehindReset),
    of_tagger("reset-before-product", "gru-reset", "backward.cell", __class__=wrong.ResetBeforeProduct),
    of_tagger("update-gate-first", "gru-gate-order", "forward.cell", __class__=wrong.UpdateGateFirst),
    of_tagger("update-keeps-new", "gru-update", "backward.cell", __class__=wrong.UpdateKeepsNew),
    of_tagger("hard-sigmoid", "activation-sigmoid", "forward.cell", __class__=wrong.HardSigmoid),
    of_tagger("starts-at-one", "recurrent-start", "backward.cell", __class__=wrong.StartsAtOne),
    of_tagger("reversed-output", "recurrent-direction", "backward", keep_order=False),
    of_tagger("forward-twice", "recurrent-direction", "backward", reverse=False),
    of_tagger("backward-first", "channels-permuted", "", __class__=wrong.BackwardFirst),
    of_tagger("trained-padding", "padding-index", "embedding", __class__=nnx.Embed, shows="backward"),
    of_tagger("scaled-embedding", "embedding-unscaled", "", __class__=wrong.ScaledTaggerEmbedding),
    of_tagger("head-bias", "bias-left-out", "head", use_bias=False, bias=None),
    Mutation(
        "gru_tagger/linen-trained-padding",
        "gru_tagger",
        "linen",
        "padding-index",
        ("embedding",),
        linen_class(wrong.LinenTrainedPadding),
        shows="backward",
    ),
    Mutation(
        "gru_tagger/linen-scaled-embedding",
        "gru_tagger",
        "linen",
        "embedding-unscaled",
        ("",),
        linen_class(wrong.LinenScaledEmbedding),
    ),
)
GPT = (
    of_gpt("rope-interleaved", "rotary-halves", *GPT_ATTENTIONS, __class__=wrong.InterleavedRotary),
    of_gpt("rope-base", "rotary-base", *GPT_ATTENTIONS, base=500_000.0),
    of_gpt("rope-reversed", "rotary-direction", "blocks.0.attention", __class__=wrong.ReversedRotary),
    of_gpt("rope-missing", "rotary-left-out", "blocks.1.attention", __class__=wrong.NoRotary),
    of_gpt("rope-bfloat16", "low-precision", *GPT_ATTENTIONS, __class__=wrong.RotaryInBfloat16),
    of_gpt("tiled-heads", "heads-repeated", *GPT_ATTENTIONS, __class__=wrong.TiledHeads),
    of_gpt("no-mask", "causal-mask", "blocks.0.attention", __class__=wrong.NoMask),
    of_gpt("sees-next", "causal-mask", "blocks.1.attention", __class__=wrong.SeesNext),
    of_gpt("inverted-mask", "causal-mask", "blocks.0.attention", __class__=wrong.InvertedMask),
    of_gpt("mask-minus-ten", "mask-fill", "blocks.1.attention", __class__=wrong.MaskedByMinusTen),
    of_gpt("attention-scale-none", "attention-scale", "blocks.0.attention", scale=1.0),
    of_gpt("attention-scale-width", "attention-other-scale", "blocks.1.attention", scale=32**-0.5),
    of_gpt("norm-epsilon", "norm-epsilon", "blocks.0.norm2", epsilon=1e-6),
    of_gpt("norm-epsilon-everywhere", "norm-epsilon", *GPT_NORMS, epsilon=1e-6),
    of_gpt("epsilon-outside-root", "norm-epsilon-place", "norm", __class__=wrong.EpsilonOutsideRoot),
    of_gpt("centered-norm", "norm-kind", "blocks.1.norm1", __class__=wrong.Centered),
    of_gpt("scale-from-one", "norm-scale", "blocks.0.norm1", __class__=wrong.ScaleFromOne),
    of_gpt("gelu-for-silu", "activation-silu", "blocks.0.mlp", activation=vit.gelu),
    of_gpt("no-activation", "activation-left-out", "blocks.1.mlp", activation=wrong.identity),
    of_gpt("swapped-gate", "gate-swapped", "blocks.1.mlp", __class__=wrong.SwappedGate),
    of_gpt("parallel-block", "residual-left-out", "blocks.1", __class__=wrong.ParallelBlock),
    of_gpt("post-norm", "norm-order", "blocks.0", __class__=wrong.GPTPostNorm),
    of_gpt("no-attention-residual", "residual-left-out", "blocks.1", __class__=wrong.NoAttentionResidual),
    of_gpt("scaled-embedding", "embedding-unscaled", "", __class__=wrong.ScaledGPTEmbedding),
    of_gpt("scaled-logits", "constant-factor", "", __class__=wrong.ScaledLogits),
    of_gpt("no-final-norm", "norm-missing", "", __class__=wrong.NoFinalNorm),
    of_gpt("bfloat16", "layers-bfloat16", "blocks.0.mlp.down", dtype=jnp.bfloat16),
    Mutation("gpt/untied", "gpt", "nnx", "tied-weights", ("", "embedding"), untie),
    Mutation(
        "gpt/haiku-scaled-embedding",
        "gpt",
        "haiku",
        "embedding-unscaled",
        ("gpt.embedding",),
        haiku(wrong.HaikuScaledEmbedding),
    ),
    Mutation("gpt/haiku-scaled-logits", "gpt", "haiku", "constant-factor", ("gpt",), haiku(wrong.HaikuScaledLogits)),
)
TORCHVISION = (
    of_torchvision("strided-same", "conv-padding", *STRIDED, padding="SAME"),
    of_torchvision("pool-same", "pool-padding", "", __class__=wrong.ResNetPoolSame),
    of_torchvision("norm-epsilon", "norm-epsilon", BLOCK(7) + ".norm1", epsilon=1e-3),
    of_torchvision("momentum", "batch-norm-momentum", "norm", momentum=0.1, shows="training"),
    of_torchvision("activation", "activation-left-out", BLOCK(6), activation=wrong.identity),
    of_torchvision("late-residual", "residual-order", BLOCK(4), __class__=wrong.BasicBlockLateResidual),
)
TIMM = (
    of_timm("gelu-tanh", "gelu-tanh", *TIMM_BLOCKS, activation=jax.nn.gelu),
    of_timm("norm-epsilon", "norm-epsilon", *TIMM_NORMS, epsilon=1e-5),
    of_timm("norm-epsilon-last", "norm-epsilon", "norm", epsilon=1e-5),
    of_timm("attention-scale", "attention-other-scale", "blocks.7.attention", scale=192**-0.5),
    of_timm("softmax-axis", "softmax-last-axis", "blocks.11.attention", __class__=wrong.QuerySoftmaxTimm),
    of_timm("query-bias", "bias-left-out", "blocks.3.attention.query", use_bias=False, bias=None),
)
MUTATIONS = (*RESNET, *VIT, *GRU_TAGGER, *GPT, *TORCHVISION, *TIMM)
