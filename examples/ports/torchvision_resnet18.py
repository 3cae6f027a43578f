"""torchvision's ResNet-18 and its port to Flax NNX."""

import jax.numpy as jnp
import torch
from flax import nnx
from torchvision.models import resnet18

from examples.ports.pairs import Dtype, JaxSide, Pair, cast, perturbed
from examples.ports.resnet.nnx_model import ResNet


def pair(dtype: Dtype = "float32", seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    images = torch.randn(2, 3, 64, 64)
    model = resnet18()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn_like(images))  # running statistics of their own
    port = ResNet(widths=(64, 128, 256, 512), classes=1000, rngs=nnx.Rngs(seed))
    nhwc = jnp.asarray(images.permute(0, 2, 3, 1).numpy(), dtype)
    return Pair(
        perturbed(model, dtype),
        (images.to(getattr(torch, dtype)),),
        {"nnx": JaxSide(cast(port, dtype), (nhwc,), lambda model, x: model(x))},
    )
