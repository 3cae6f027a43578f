# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The GPU, in one line
#
# In the tutorial a network moves to the GPU by `.to(device)`. JAX needs no such line: new arrays
# are made on its default device, a GPU where its CUDA plugin is installed and finds one. In this
# project it is a flag of every command that trains, the same for both frameworks:
#
# ```
# python -m jax_mlp.train --device gpu
# python -m reference_torch.train --device gpu
# ```
#
# `auto`, the default, takes a GPU where there is one. What does the machine have that made this
# page?

# %%
import dataclasses
import time

import jax_mlp.device
import reference_torch.device
from jax_mlp.trainer import Trainer as JaxTrainer
from lessons.figure import figure, say
from mlp_compare.figures import COLOURS
from mlp_workload.batches import epoch_order
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from reference_torch.trainer import Trainer as TorchTrainer

config = PRESETS["leaky"]
machine = describe_environment(("jax", "torch"))
say(f"{machine['processor']}, {machine['usable_cores']} cores of it; {machine['system']}.")
SIDES = {"JAX": jax_mlp.device, "torch": reference_torch.device}
for name, side in SIDES.items():
    say(f"{name} takes {side.device_name(side.find_device(config))}.")

# %% [markdown]
# `gpu` never falls back to the CPU: where there is none, one line says so, before anything is
# trained.

# %%
devices = {name: ["cpu"] for name in SIDES}
for name, side in SIDES.items():
    try:
        device = side.find_device(dataclasses.replace(config, device="gpu"))
        devices[name].append("gpu")
        say(f"{name}: {side.device_name(device)}")
    except UserError as error:
        say(f"{name}: `{error}`")

# %% [markdown]
# The same steps on each device that is here, with batches of several sizes. A step costs a fixed
# price for being called, and one for its work; a large batch shares the first among many.

# %%
mnist = load("mnist")
start = initial_parameters(config.initialization, config.widths(784, 10), seed=0)
SIZES = (20, 200, 2000)


def examples_per_second(make, device, size):
    """The better of two epochs over so many of the examples as take a moment."""
    trainer = make(dataclasses.replace(config, device=device, batch_size=size), mnist, start)
    examples = min(20_000, 100 * size)
    order = epoch_order(seed=0, epoch=1, examples=60_000)[:examples]
    trainer.train_steps(order)
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        trainer.train_steps(order)
        seconds.append(time.perf_counter() - begin)
    return examples / min(seconds)


with figure("Examples per second by batch size") as axes:
    styles = {"cpu": "o-", "gpu": "s--"}
    for (name, make), colour in zip(
        {"JAX": JaxTrainer, "torch": TorchTrainer}.items(), COLOURS, strict=False
    ):
        for device in devices[name]:
            speeds = [examples_per_second(make, device, size) for size in SIZES]
            axes.loglog(SIZES, speeds, styles[device], color=colour, label=f"{name}, {device}")
            said = ", ".join(f"{s:,.0f} at {n}" for s, n in zip(speeds, SIZES, strict=True))
            say(f"{name} on {device}, examples per second by batch size: {said}")
    axes.set(xlabel="batch size, examples", ylabel="examples per second")
    axes.set_xticks(SIZES, map(str, SIZES))
    axes.minorticks_off()
    axes.legend(frameon=False)

# %% [markdown]
# One look on a busy machine is no benchmark: [Performance](../performance.md) tells how the
# project measures, and [what an H200 did](../gpu-h200.md).
