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
# A linear layer takes a batch (batch, in) to (batch, out). PyTorch keeps its weight as (out, in)
# and multiplies by the transpose. Flax keeps a kernel (in, out) and multiplies by it. So a weight
# that is carried across must be transposed once. The figure shows a square layer, where forgetting
# it raises no error: the shapes fit, and the numbers are wrong.

# %% Imports
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_mlp.model
import jax_mlp.weights
import reference_torch.model
from lessons.helpers import COLOURS, INK, figure, say
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from reference_torch.weights import to_canonical

# %%
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
# The weight is transposed; the bias (out,) stays as it is.

# %%
flax_layer.kernel[...] = jnp.asarray(torch_layer.weight.detach().numpy().T)
flax_layer.bias[...] = jnp.asarray(torch_layer.bias.detach().numpy())
in_torch = torch_layer(torch.tensor(x)).detach().numpy()
in_flax = np.asarray(flax_layer(jnp.asarray(x)))
apart = np.abs(in_torch - in_flax).max()
eps = np.finfo(np.float32).eps
say(f"The outputs are at most {apart:.1e} apart; float32 has an epsilon of {eps:.1e}.")

# %% [markdown]
# Without the transpose this layer raises an error, because 784 is not 512.

# %%
try:
    jnp.asarray(x) @ jnp.asarray(torch_layer.weight.detach().numpy())
except TypeError as error:
    say(f"JAX: {str(error).splitlines()[0]}")

# %% [markdown]
# A square layer, such as the tutorial's 200 to 200 in the middle, raises none.

# %%
rng = np.random.default_rng(0)
hidden = rng.uniform(0, 1, (4, 200)).astype(np.float32)
square = torch.nn.Linear(200, 200)
expected = square(torch.tensor(hidden)).detach().numpy()
weight, bias = (parameter.detach().numpy() for parameter in square.parameters())
outputs = {
    "transposed: (in, out)": np.asarray(jnp.asarray(hidden) @ weight.T + bias),
    "forgotten: (out, in)": np.asarray(jnp.asarray(hidden) @ weight + bias),
}

# %% The figure
with figure("A square layer with and without the transpose", columns=2, height=3.2) as both:
    for axes, (name, output), colour in zip(both, outputs.items(), COLOURS, strict=False):
        axes.axline((0, 0), slope=1, color=INK, linewidth=0.6)
        axes.plot(expected.ravel(), output.ravel(), ".", color=colour, markersize=4)
        axes.set(xlabel="torch's output", ylabel="JAX's output", title=name, aspect="equal")
        say(f"{name}: at most {np.abs(output - expected).max():.1e} apart")

# %% [markdown]
# So this project gives weights canonical names, and keeps torch's (out, in) in every file and in
# both its models: its JAX model has a `Linear` of its own (`jax_mlp/model.py`). Here is the
# tutorial's network with torch's random weights, in both frameworks.

# %%
config = PRESETS["leaky"]
widths = config.widths(784, 10)
in_torch = reference_torch.model.build_model(config, widths)
in_flax = jax_mlp.model.build_model(config, widths)

canonical = to_canonical(in_torch)
say("\n".join(f"- `{name}` {array.shape}" for name, array in canonical.items()))
jax_mlp.weights.load_canonical(in_flax, canonical)
logits = in_torch(torch.tensor(x)).detach().numpy()
say(f"Logits at most {np.abs(logits - np.asarray(in_flax(jnp.asarray(x)))).max():.1e} apart.")
