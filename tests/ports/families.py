"""Small pairs with random weights: families of models that `transformers` has in PyTorch and in Flax (linen)."""

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import cpu_torchvision  # noqa: F401  (before transformers)
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import linen

BATCH, LENGTH, IMAGE = 2, 7, 16


class Pair(NamedTuple):
    """A PyTorch model in evaluation mode and its Flax port. The two have different random weights.

    `torch_model(**torch_inputs)` and `call(module.bind(variables), jax_inputs)` return each side's output.
    """

    torch_model: torch.nn.Module
    torch_inputs: dict[str, torch.Tensor]
    module: linen.Module
    variables: dict[str, Any]
    jax_inputs: dict[str, jax.Array]
    call: Callable[[linen.Module, Mapping[str, jax.Array]], Any]


class Family(NamedTuple):
    model: str  # the name of the PyTorch class; the Flax class is called "Flax" + model
    config: str
    inputs: Callable[[Any, np.random.Generator], dict[str, np.ndarray]]
    settings: dict[str, Any]


def _padded(config: Any, rng: np.random.Generator, prefix: str) -> dict[str, np.ndarray]:
    """Token ids and their mask; the second sequence ends in padding."""
    ids = rng.integers(4, config.vocab_size, (BATCH, LENGTH))
    mask = np.ones_like(ids)
    ids[1, -2:], mask[1, -2:] = config.pad_token_id or 0, 0
    return {f"{prefix}input_ids": ids, f"{prefix}attention_mask": mask}


def _text(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return _padded(config, rng, "")


def _typed_text(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return (inputs := _text(config, rng)) | {"token_type_ids": np.zeros_like(inputs["input_ids"])}


def _two_texts(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return _padded(config, rng, "") | _padded(config, rng, "decoder_")


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)  # some Flax classes round their inputs to float32


def _image(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"pixel_values": _normal(rng, BATCH, 3, IMAGE, IMAGE)}


def _spectrogram(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    features = _normal(rng, BATCH, config.num_mel_bins, 2 * config.max_source_positions)
    return {"input_features": features, "decoder_input_ids": rng.integers(4, config.vocab_size, (BATCH, LENGTH))}


def _padded_transcript(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return _spectrogram(config, rng) | _padded(config, rng, "decoder_")


def _sound(config: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"input_values": _normal(rng, BATCH, 400)}


SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"vocab_size": 48, "max_position_embeddings": 16}
BERT = SIZES | TEXT
GROUPED = BERT | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
PATCHES = SIZES | {"image_size": IMAGE, "patch_size": 4}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
GPT = {"vocab_size": 48, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
DECODER = {"d_model": 16, "num_layers": 2, "attention_heads": 2, "ffn_dim": 32}
BART = (
    TEXT
    | {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in {"layers": 2, "attention_heads": 2, "ffn_dim": 32}.items()
    }
    | {"d_model": 16}
)
WHISPER = BART | {"num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 16, "pad_token_id": 0}
FAMILIES = {
    "albert": Family("AlbertModel", "AlbertConfig", _text, BERT | {"embedding_size": 8}),
    "bart": Family("BartModel", "BartConfig", _two_texts, BART),
    "beit": Family("BeitModel", "BeitConfig", _image, PATCHES | {"use_relative_position_bias": True}),
    "bert": Family("BertModel", "BertConfig", _text, BERT),
    "big_bird": Family("BigBirdModel", "BigBirdConfig", _text, BERT | {"attention_type": "original_full"}),
    "blenderbot": Family("BlenderbotModel", "BlenderbotConfig", _two_texts, BART),
    "bloom": Family(
        "BloomModel", "BloomConfig", _text, {"vocab_size": 48, "hidden_size": 16, "n_layer": 2, "n_head": 2}
    ),
    "clip_text": Family("CLIPTextModel", "CLIPTextConfig", _text, BERT | {"eos_token_id": 2, "pad_token_id": 1}),
    "clip_vision": Family("CLIPVisionModel", "CLIPVisionConfig", _image, PATCHES),
    "dinov2": Family("Dinov2Model", "Dinov2Config", _image, PATCHES),
    "dinov2_resized": Family("Dinov2Model", "Dinov2Config", _image, PATCHES | {"image_size": 24}),
    "distilbert": Family(
        "DistilBertModel",
        "DistilBertConfig",
        _text,
        TEXT | {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    ),
    "electra": Family("ElectraModel", "ElectraConfig", _typed_text, BERT | {"embedding_size": 8}),
    "electra_untyped": Family("ElectraModel", "ElectraConfig", _text, BERT | {"embedding_size": 8}),
    "gemma": Family("GemmaModel", "GemmaConfig", _text, GROUPED),
    "gpt2": Family("GPT2Model", "GPT2Config", _text, GPT),
    "gpt_neo": Family(
        "GPTNeoModel",
        "GPTNeoConfig",
        _text,
        TEXT
        | {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 4}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "gptj": Family("GPTJModel", "GPTJConfig", _text, GPT | {"rotary_dim": 4}),
    "llama": Family("LlamaModel", "LlamaConfig", _text, GROUPED),
    "mbart": Family("MBartModel", "MBartConfig", _two_texts, BART),
    "mistral": Family("MistralModel", "MistralConfig", _text, GROUPED | {"sliding_window": 16}),
    "mistral_windowed": Family("MistralModel", "MistralConfig", _text, GROUPED | {"sliding_window": 4}),
    "mistral_windowless": Family("MistralModel", "MistralConfig", _text, GROUPED | {"sliding_window": None}),
    "opt": Family(
        "OPTModel",
        "OPTConfig",
        _text,
        TEXT
        | {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 2}
        | {"num_attention_heads": 2, "ffn_dim": 32},
    ),
    "pegasus": Family("PegasusModel", "PegasusConfig", _two_texts, BART),
    "regnet": Family("RegNetModel", "RegNetConfig", _image, STAGES | {"groups_width": 4}),
    "resnet": Family("ResNetModel", "ResNetConfig", _image, STAGES),
    "roberta": Family("RobertaModel", "RobertaConfig", _text, BERT),
    "roformer": Family("RoFormerModel", "RoFormerConfig", _text, BERT | {"embedding_size": 16}),
    "vit": Family("ViTModel", "ViTConfig", _image, PATCHES),
    "wav2vec2": Family(
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        _sound,
        SIZES
        | {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 4}
        | {"num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    ),
    "whisper": Family("WhisperModel", "WhisperConfig", _spectrogram, WHISPER),
    "whisper_padded": Family("WhisperModel", "WhisperConfig", _padded_transcript, WHISPER),
    "xglm": Family("XGLMModel", "XGLMConfig", _text, TEXT | DECODER),
}

DIFFERENT = {
    "dinov2_resized": "position embeddings are resized by another cubic kernel (-0.5 for -0.75) and another scale",
    "electra_untyped": "the token types that are not given are ones in Flax and zeros in PyTorch",
    "mistral_windowed": "the sliding window is one token wider in Flax",
    "whisper_padded": "the decoder's padding has position -1 in Flax; what is not padding agrees",
    "mistral_windowless": "without a sliding window a token attends to itself alone in Flax",
}
"""Names of the families in which the two compute different things, and why. The others agree."""

FLOAT32_ONLY = ("clip_text", "xglm")  # in PyTorch: their causal mask is float32, the lowest float64 overflows in it


def pair(name: str, dtype: Literal["float32", "float64"] = "float32") -> Pair:
    """Returns the pair of one family. `float64` needs `jax_enable_x64` and leaves out `FLOAT32_ONLY`."""
    family = FAMILIES[name]
    config = getattr(transformers, family.config)(**family.settings)
    inputs = family.inputs(config, np.random.default_rng(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch_model = _random(getattr(transformers, family.model)(config))
    port = getattr(transformers, f"Flax{family.model}")(config, dtype=jnp.dtype(dtype), _do_init=False)
    module = port.module
    variables, arrays, settings = _arguments(port, inputs)
    return Pair(
        torch_model.to(getattr(torch, dtype)).eval(),
        {key: _torch_cast(torch.from_numpy(value), dtype) for key, value in inputs.items()},
        module,
        _cast(variables, dtype),
        _cast(arrays, dtype),
        lambda bound, given: bound(**given, **settings),
    )


def _random(model: torch.nn.Module) -> torch.nn.Module:
    """Moves all parameters and running statistics off the zeros and ones that they start with."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith(("running_mean", "running_var")):
                buffer += 0.5 * torch.rand(buffer.shape)
    return model


def _arguments(
    port: transformers.FlaxPreTrainedModel, inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, jax.Array], dict[str, Any]]:
    """Returns what the class passes to its module: new variables, the arrays and the other arguments, by name."""
    calls = []
    signature = inspect.signature(type(port.module).__call__)
    rng = np.random.default_rng(1)
    initial = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0, 0.2, leaf.shape)), port.params_shape_tree)
    port._module = SimpleNamespace(apply=lambda *args, **kwargs: calls.append((args, kwargs)))
    port(**inputs, params=initial)
    (variables, *args), kwargs = calls[0]
    known = {key: value for key, value in kwargs.items() if key in signature.parameters}
    named = signature.bind_partial(None, *args, **known).arguments
    del named["self"]
    arrays = {key: value for key, value in named.items() if isinstance(value, jax.Array)}
    return variables, arrays, {key: value for key, value in named.items() if key not in arrays}


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _torch_cast(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
