# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The linear layer and its transpose
#
# A linear layer takes a batch (batch, in) to (batch, out). PyTorch keeps its weight as (out,
# in) and multiplies by the transpose; Flax keeps a kernel (in, out) and multiplies by it.

# %%
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jax_mlp.model import MLP as FlaxMLP
from jax_mlp.weights import load_canonical as load_into_flax
from lessons.figure import figure, say
from mlp_compare.figures import COLOURS, INK
from mlp_workload.data import load
from reference_torch.model import MLP as TorchMLP
from reference_torch.weights import to_canonical

digits = load("mnist").test.images[:4]
x = digits.reshape(4, -1).astype(np.float32) / 255

torch.manual_seed(0)
torch_layer = torch.nn.Linear(784, 512)
flax_layer = nnx.Linear(784, 512, rngs=nnx.Rngs(0))
say(
    f"Four digits {x.shape} become {tuple(torch_layer(torch.tensor(x)).shape)} in torch and "
    f"{flax_layer(jnp.asarray(x)).shape} in Flax. torch's weight is "
    f"{tuple(torch_layer.weight.shape)}, Flax's kernel {flax_layer.kernel.shape}."
)

# %% [markdown]
# To carry a weight across it is transposed once; the bias (out,) stays as it is.

# %%
flax_layer.kernel[...] = jnp.asarray(torch_layer.weight.detach().numpy().T)
flax_layer.bias[...] = jnp.asarray(torch_layer.bias.detach().numpy())
in_torch = torch_layer(torch.tensor(x)).detach().numpy()
in_flax = np.asarray(flax_layer(jnp.asarray(x)))
apart = np.abs(in_torch - in_flax).max()
eps = np.finfo(np.float32).eps
say(f"The outputs are at most {apart:.1e} apart; float32 has an epsilon of {eps:.1e}.")

# %% [markdown]
# Forgotten, the transpose raises an error here, because 784 is not 512. In a square layer,
# such as the tutorial's 200 to 200 in the middle, nothing raises: the shapes fit and the
# numbers are wrong.

# %%
try:
    jnp.asarray(x) @ jnp.asarray(torch_layer.weight.detach().numpy())
except TypeError as error:
    say(f"JAX: {str(error).splitlines()[0]}")

rng = np.random.default_rng(0)
hidden = rng.uniform(0, 1, (4, 200)).astype(np.float32)
square = torch.nn.Linear(200, 200)
expected = square(torch.tensor(hidden)).detach().numpy()
weight, bias = (parameter.detach().numpy() for parameter in square.parameters())
outputs = {
    "transposed: (in, out)": np.asarray(jnp.asarray(hidden) @ weight.T + bias),
    "forgotten: (out, in)": np.asarray(jnp.asarray(hidden) @ weight + bias),
}

# %%
with figure("A square layer with and without the transpose", columns=2, height=3.2) as both:
    for axes, (name, output), colour in zip(both, outputs.items(), COLOURS, strict=False):
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.6)
        axes.plot(expected.ravel(), output.ravel(), ".", color=colour, markersize=4)
        axes.set(xlabel="torch's output", ylabel="JAX's output", title=name, aspect="equal")
        say(f"{name}: at most {np.abs(output - expected).max():.1e} apart")

# %% [markdown]
# So this project names weights canonically, and keeps torch's (out, in) in every file and in
# both its models: its JAX one has a `Linear` of its own (`jax_mlp/model.py`). Here is the
# tutorial's network with torch's random weights, in both frameworks.

# %%
widths = (784, 200, 200, 10)
model = TorchMLP(widths, "leaky_relu", "leaky_relu", "torch_linear", torch.float32)
canonical = to_canonical(model)
say("\n".join(f"- `{name}` {array.shape}" for name, array in canonical.items()))

flax = FlaxMLP(widths, "leaky_relu", "leaky_relu", "torch_linear", jnp.float32, nnx.Rngs(0))
load_into_flax(flax, canonical)
logits = model(torch.tensor(x)).detach().numpy()
say(f"Logits at most {np.abs(logits - np.asarray(flax(jnp.asarray(x)))).max():.1e} apart.")
