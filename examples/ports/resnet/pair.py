"""Both sides of the ResNet."""

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from flax import nnx

from examples.ports.pairs import Dtype, JaxSide, Pair, cast, perturbed
from examples.ports.resnet.equinox_model import ResNet as EquinoxResNet
from examples.ports.resnet.nnx_model import ResNet as NnxResNet
from examples.ports.resnet.torch_model import ResNet


def call_equinox(
    model_and_state: tuple[EquinoxResNet, eqx.nn.State], images: jax.Array
) -> tuple[jax.Array, eqx.nn.State]:
    model, state = model_and_state
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(images, state)


def pair(dtype: Dtype = "float32", seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    images = torch.randn(4, 3, 32, 32)
    model = ResNet()
    with torch.no_grad():
        for _ in range(10):
            model(images + torch.randn_like(images))  # running statistics of their own
    nchw = jnp.asarray(images.numpy(), dtype)
    nnx_model = NnxResNet(rngs=nnx.Rngs(seed))
    equinox_model = eqx.nn.make_with_state(EquinoxResNet)(key=jax.random.key(seed))
    return Pair(
        perturbed(model, dtype),
        (images.to(getattr(torch, dtype)),),
        {
            "nnx": JaxSide(cast(nnx_model, dtype), (nchw.transpose(0, 2, 3, 1),), lambda model, x: model(x)),
            "equinox": JaxSide(
                cast(eqx.nn.inference_mode(equinox_model), dtype), (nchw,), lambda model, x: call_equinox(model, x)[0]
            ),
        },
    )
