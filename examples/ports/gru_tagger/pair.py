"""Both sides of the tagger."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx

from examples.ports.gru_tagger.linen_model import Tagger as LinenTagger
from examples.ports.gru_tagger.nnx_model import Tagger as NnxTagger
from examples.ports.gru_tagger.torch_model import PADDING, Tagger
from examples.ports.pairs import Dtype, JaxSide, Pair, cast, perturbed


def pair(dtype: Dtype = "float32", seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    tokens = torch.randint(1, 20, (3, 7))
    tokens[1, 5:] = tokens[2, 4:] = PADDING
    jax_tokens = jnp.asarray(tokens.numpy(), "int32")
    linen_model = LinenTagger(param_dtype=dtype)
    variables = linen_model.init(jax.random.key(seed), jax_tokens)
    return Pair(
        perturbed(Tagger(), dtype),
        (tokens,),
        {
            "nnx": JaxSide(cast(NnxTagger(rngs=nnx.Rngs(seed)), dtype), (jax_tokens,), lambda model, x: model(x)),
            "linen": JaxSide(
                (linen_model, cast(variables, dtype)), (jax_tokens,), lambda model, x: model[0].apply(model[1], x)
            ),
        },
    )
