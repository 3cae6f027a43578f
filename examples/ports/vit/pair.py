"""Both sides of the ViT."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx

from examples.ports.pairs import Dtype, JaxSide, Pair, cast, perturbed
from examples.ports.vit.linen_model import ViT as LinenViT
from examples.ports.vit.nnx_model import ViT as NnxViT
from examples.ports.vit.torch_model import ViT


def pair(dtype: Dtype = "float32", seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    images = torch.randn(2, 3, 32, 32).to(getattr(torch, dtype))
    nhwc = jnp.asarray(images.permute(0, 2, 3, 1).numpy())
    linen_model = LinenViT()
    variables = linen_model.init(jax.random.key(seed), nhwc)
    return Pair(
        perturbed(ViT(), dtype),
        (images,),
        {
            "nnx": JaxSide(cast(NnxViT(rngs=nnx.Rngs(seed)), dtype), (nhwc,), lambda model, x: model(x)),
            "linen": JaxSide(
                (linen_model, cast(variables, dtype)), (nhwc,), lambda model, x: model[0].apply(model[1], x)
            ),
        },
    )
