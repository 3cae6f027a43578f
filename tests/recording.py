"""Recordings of one pass, by either framework."""

import jax.numpy as jnp
import numpy as np
import torch

import twincheck.record_jax
import twincheck.record_torch

X = np.linspace(-1, 1, 12).reshape(4, 3)


def torch_record(model, loss=lambda output: (output**2).sum()):
    return twincheck.record_torch.record(model, loss, torch.tensor(X))


def flax_record(model, loss=lambda output: (output**2).sum()):
    return twincheck.record_jax.record(model, loss, jnp.asarray(X))
