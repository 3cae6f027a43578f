# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Entropy: how surprised one is on average
#
# An outcome with probability p has a surprise of -log₂ p bits: none if it was certain, one bit for
# a coin, more the rarer it is. The entropy of a distribution is the expected surprise,
# H(p) = -Σ p log p: how uncertain one is before looking. The figure shows, from left to right, the
# surprise of a single outcome, the entropy of a coin, which is most uncertain at one half, and the
# entropy of three distributions.

# %% Imports
import jax.numpy as jnp
import numpy as np
import torch

import jax_mlp.entropy
import reference_torch.entropy
from lessons.helpers import COLOURS, INK, figure, say
from mlp_workload.entropy import cross_entropy, entropy, kl_divergence

# %% [markdown]
# The tutorial asks about four outcomes three times: all alike, one that is likely, one that is
# nearly certain.

# %%
distributions = {
    "all alike": [0.25, 0.25, 0.25, 0.25],
    "one likely": [0.1, 0.1, 0.1, 0.7],
    "nearly certain": [0.001, 0.001, 0.001, 0.997],
}
for name, p in distributions.items():
    say(f"{name}: {entropy(p):.4f} bits")

# %% The figure
p = np.linspace(0.001, 1, 1000)
coin = entropy(np.stack([p, 1 - p], axis=-1))
with figure("Surprise, entropy of a coin, and of the three distributions", columns=3) as axes:
    axes[0].plot(p, -np.log2(p), color=COLOURS[0])
    axes[0].set(xlabel="probability of an outcome", ylabel="its surprise, bits", ylim=(0, 10.2))
    axes[1].plot(p, coin, color=COLOURS[0])
    axes[1].set(xlabel="probability of heads", ylabel="entropy, bits", ylim=(0, 1.05))
    bits = [float(entropy(p)) for p in distributions.values()]
    bars = axes[2].bar(["all\nalike", "one\nlikely", "nearly\ncertain"], bits, color=COLOURS[1])
    axes[2].bar_label(bars, fmt="%.3f", padding=2, color=INK)
    axes[2].set(ylabel="entropy, bits", ylim=(0, 2.3))

# %% [markdown]
# The numbers that the tutorial prints for the third are no distribution: they add up to more than
# 1. The project's functions say so.

# %%
printed = [0.001, 0.001, 0.001, 0.999]
try:
    entropy(printed)
except ValueError as error:
    say(f"{error}. Without the check: {entropy(printed, check=False):.4f} bits, the tutorial's")

# %% [markdown]
# The same in JAX and in torch, in bits and in nats. A nat is the unit of the natural logarithm, in
# which both frameworks compute their losses; a bit is ln 2 nats.

# %%
rows = ["| | bits, JAX | bits, torch | nats, JAX | nats, torch |", "|---|---|---|---|---|"]
for name, p in distributions.items():
    values = []
    for base in ("bits", "nats"):
        values.append(jax_mlp.entropy.entropy(jnp.array(p), base))
        values.append(reference_torch.entropy.entropy(torch.tensor(p), base))
    rows.append(f"| {name} | " + " | ".join(f"{value:.6f}" for value in values) + " |")
say("\n".join(rows))

# %% [markdown]
# Cross-entropy H(p, q) is what one pays for expecting q while p is true. It is the entropy of p,
# which nobody can save, plus the KL divergence, which is 0 only if q is p. A classifier's loss is a
# cross-entropy, with the label for p.

# %%
p, q = distributions["one likely"], distributions["all alike"]
say(
    f"Expecting “all alike” while “one likely” is true costs {cross_entropy(p, q):.4f} bits: "
    f"{entropy(p):.4f} of entropy and {kl_divergence(p, q):.4f} more. The other way round it costs "
    f"{cross_entropy(q, p):.4f}: the order matters."
)
say(
    f"Knowing nothing about ten digits costs {entropy([0.1] * 10, 'nats'):.4f} nats. A training "
    "begins near that if its first logits are near 0, as those of the preset `leaky` are."
)
