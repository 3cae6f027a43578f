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
# In the tutorial a network moves to the GPU by `.to(device)`. JAX needs no such line: it makes new
# arrays on its default device, a GPU if its CUDA plugin finds one. In this project it is a flag of
# every command that trains, the same for both frameworks:
#
# ```
# python -m jax_mlp.train --device gpu
# python -m reference_torch.train --device gpu
# ```
#
# The figure shows what the machine that made this page can do: examples per second by batch size.
# A step has a fixed price for being called and one for its work; a large batch shares the first
# among many examples.

# %% Imports
import dataclasses
import time

import jax_mlp.device
import jax_mlp.trainer
import reference_torch.device
import reference_torch.trainer
from lessons.helpers import COLOURS, figure, say
from mlp_workload.batches import epoch_order
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters

# %% [markdown]
# `auto`, the default, takes a GPU if there is one. `gpu` never falls back to the CPU: without a GPU
# one line says so, before anything is trained.

# %%
config = PRESETS["leaky"]
machine = describe_environment(("jax", "torch"))
say(f"{machine['processor']}, {machine['usable_cores']} cores of it; {machine['system']}.")
devices = {}
for name, side in {"JAX": jax_mlp.device, "torch": reference_torch.device}.items():
    say(f"{name} takes {side.device_name(side.find_device(config))}.")
    devices[name] = ["cpu"]
    try:
        side.find_device(dataclasses.replace(config, device="gpu"))
        devices[name].append("gpu")
    except UserError as error:
        say(f"{name} with `--device gpu`: `{error}`")

# %% [markdown]
# The same steps run on each device that is here, with batches of several sizes.

# %%
mnist = load("mnist")
start = initial_parameters(config.initialization, config.widths(784, 10), seed=0)


def examples_per_second(trainer_class, device, size):
    """Returns the better of two epochs, over as many examples as take a moment."""
    run = dataclasses.replace(config, device=device, batch_size=size)
    trainer = trainer_class(run, mnist, start)
    examples = min(20_000, 100 * size)
    order = epoch_order(seed=0, epoch=1, examples=60_000)[:examples]
    trainer.train_steps(order)
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        trainer.train_steps(order)
        seconds.append(time.perf_counter() - begin)
    return examples / min(seconds)


# %% The figure
SIZES = (20, 200, 2000)
trainers = {"JAX": jax_mlp.trainer.Trainer, "torch": reference_torch.trainer.Trainer}
with figure("Examples per second by batch size") as axes:
    styles = {"cpu": "o-", "gpu": "s--"}
    for (name, trainer_class), colour in zip(trainers.items(), COLOURS, strict=False):
        for device in devices[name]:
            speeds = [examples_per_second(trainer_class, device, size) for size in SIZES]
            axes.loglog(SIZES, speeds, styles[device], color=colour, label=f"{name}, {device}")
            listed = ", ".join(f"{s:,.0f} at {n}" for s, n in zip(speeds, SIZES, strict=True))
            say(f"{name} on {device}, examples per second by batch size: {listed}")
    axes.set(xlabel="batch size, examples", ylabel="examples per second")
    axes.set_xticks(SIZES, map(str, SIZES))
    axes.minorticks_off()
    axes.legend(frameon=False)

# %% [markdown]
# One look on a busy machine is no benchmark. [Benchmark](../benchmark.md) shows how the project
# measures, and what an H200 did.
