"""One training step and one evaluation.

Training, traces, the parity check and `--seeds` all run these. `jax_mlp/step.py` has the same functions in JAX.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from mlp_workload.config import Config
from reference_torch.loss import IGNORED
from reference_torch.model import MLP, HandWritten

Model = HandWritten | MLP


def normalize(config: Config, images: torch.Tensor) -> torch.Tensor:
    """Converts uint8 images to the run's dtype: to 0..1, then standardized if the preset says so."""
    x = images.to(getattr(torch, config.dtype)).div_(255)
    return x.sub_(config.pixel_mean).div_(config.pixel_std) if (config.pixel_mean, config.pixel_std) != (0, 1) else x


def loss_fn(
    config: Config, model: Model, x: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns the mean cross-entropy of x (batch, pixels) and every layer's tensors by the names of a trace."""
    tensors = dict(model.intermediates(x))
    loss = F.cross_entropy(tensors["logits"], labels, label_smoothing=config.label_smoothing, ignore_index=IGNORED)
    return loss, tensors


def loss_and_gradients(config: Config, model: Model, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the tensors of a forward and backward pass.

    The gradients of the parameters are left in their `grad`, in place of those of the step before.
    """
    loss, tensors = loss_fn(config, model, x, labels)
    tensors["logits"].retain_grad()
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    gradient = tensors["logits"].grad
    assert gradient is not None
    return tensors | {"loss": loss.detach(), "logits.grad": gradient}


def train_step(
    config: Config,
    model: Model,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    before_update: Callable[[], None] = lambda: None,
) -> dict[str, torch.Tensor]:
    """Trains on images (batch, pixels), uint8, and labels (batch,); returns the tensors.

    The tensors have the names of `mlp_workload.trace`. `before_update` may read the gradients of the parameters, in
    whose memory the optimizer may compute.
    """
    x = normalize(config, images)
    tensors = loss_and_gradients(config, model, x, labels)
    before_update()
    optimizer.step()
    return tensors | {"batch.images": images, "batch.labels": labels, "inputs": x}


@torch.no_grad()
def eval_step(config: Config, model: Model, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits (batch, classes) of images (batch, pixels), uint8."""
    return model(normalize(config, images))
