"""Entropy, cross-entropy and KL divergence in torch; definitions as in `mlp_workload.entropy`."""

import torch
from torch.special import xlogy

from mlp_workload.entropy import NATS_PER_UNIT, Base, check_distributions


def entropy(p: torch.Tensor, base: Base = "bits", check: bool = True) -> torch.Tensor:
    """Returns H(p) = -sum p log p of distributions (..., classes), as (...), in the dtype of p.

    Raises `ValueError` if p is not a distribution, unless `check` is False.
    """
    return cross_entropy(p, p, base, check)


def cross_entropy(p: torch.Tensor, q: torch.Tensor, base: Base = "bits", check: bool = True) -> torch.Tensor:
    """Returns H(p, q) = -sum p log q of distributions (..., classes), as (...). Raises as `entropy` does.

    `torch.nn.functional.cross_entropy` takes logits instead of q first, then class numbers or probabilities p.
    """
    _check(check, p=p, q=q)
    nats: torch.Tensor = 0 - xlogy(p, q).sum(dim=-1)
    return nats / NATS_PER_UNIT[base]


def kl_divergence(p: torch.Tensor, q: torch.Tensor, base: Base = "bits", check: bool = True) -> torch.Tensor:
    """Returns KL(p || q) = sum p log(p / q) of distributions (..., classes), as (...). Raises as `entropy` does.

    `torch.nn.functional.kl_div` takes log q first, then p. By default it averages over every element.
    """
    _check(check, p=p, q=q)
    nats: torch.Tensor = (xlogy(p, p) - xlogy(p, q)).sum(dim=-1)
    return nats / NATS_PER_UNIT[base]


def _check(check: bool, **distributions: torch.Tensor) -> None:
    if check:
        check_distributions(**{name: values.detach().double().cpu().numpy() for name, values in distributions.items()})
