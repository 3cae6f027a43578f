"""One training step and one evaluation.

Training, traces, the parity check and `--seeds` run these. Under torchrun, `data_parallel.py` has a loss over slices of
a batch. `jax_mlp/step.py` has functions of the same names in JAX, which return what these change in place.
"""

import torch
from torch.nn import functional as F

from mlp_workload.config import Config
from reference_torch.loss import IGNORED
from reference_torch.model import MLP, HandWritten
from reference_torch.weights import named_parameters

Model = HandWritten | MLP


def normalize(config: Config, images: torch.Tensor) -> torch.Tensor:
    """Converts uint8 images to the run's dtype: to 0..1, then standardized if the preset says so."""
    x = images.to(getattr(torch, config.dtype)).div_(255)
    return x.sub_(config.pixel_mean).div_(config.pixel_std) if (config.pixel_mean, config.pixel_std) != (0, 1) else x


def loss_fn(
    config: Config, model: Model, x: torch.Tensor, labels: torch.Tensor, traced: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns the mean cross-entropy of x (batch, pixels), and the logits, or if `traced` every layer's tensors."""
    tensors = dict(model.intermediates(x)) if traced else {"logits": model(x)}
    loss = F.cross_entropy(tensors["logits"], labels, label_smoothing=config.label_smoothing, ignore_index=IGNORED)
    return loss, tensors


def train_step(
    config: Config,
    model: Model,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    traced: bool = False,
) -> dict[str, torch.Tensor]:
    """Trains on images (batch, pixels), uint8, and labels (batch,), in place; returns the loss and the logits.

    If `traced`, also every other tensor of the step, by the names of `twincheck.trace`.
    """
    x = normalize(config, images)
    loss, tensors = loss_fn(config, model, x, labels, traced)
    if traced:
        tensors["logits"].retain_grad()
    optimizer.zero_grad()
    loss.backward()
    tensors["loss"] = loss.detach()
    if traced:  # before the update, which may be computed in the gradients' memory
        tensors |= {"batch.images": images, "batch.labels": labels, "inputs": x}
        for name, tensor in {"logits": tensors["logits"], **named_parameters(model)}.items():
            assert tensor.grad is not None
            tensors[f"{name}.grad"] = tensor.grad.clone()
    optimizer.step()
    return tensors


@torch.no_grad()
def eval_step(config: Config, model: Model, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits (batch, classes) of images (batch, pixels), uint8."""
    return model(normalize(config, images))
