"""Both sides of the GPT."""

import haiku as hk
import jax
import jax.numpy as jnp
import torch
from flax import nnx

from examples.ports.gpt.haiku_model import GPT as HaikuGPT
from examples.ports.gpt.nnx_model import GPT as NnxGPT
from examples.ports.gpt.torch_model import GPT
from examples.ports.pairs import Dtype, JaxSide, Pair, cast, perturbed


def pair(dtype: Dtype = "float32", seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    tokens = torch.randint(0, 50, (2, 12))
    jax_tokens = jnp.asarray(tokens.numpy(), "int32")
    haiku_model = hk.without_apply_rng(hk.transform(lambda tokens: HaikuGPT()(tokens)))
    params = haiku_model.init(jax.random.key(seed), jax_tokens)
    return Pair(
        perturbed(GPT(), dtype),
        (tokens,),
        {
            "nnx": JaxSide(cast(NnxGPT(rngs=nnx.Rngs(seed)), dtype), (jax_tokens,), lambda model, x: model(x)),
            "haiku": JaxSide(
                (haiku_model, cast(params, dtype)), (jax_tokens,), lambda model, x: model[0].apply(model[1], x)
            ),
        },
    )
