"""How far the tensors of two MLPs may lie apart, and why: the one table that the parity check judges by."""

from collections.abc import Mapping

import numpy as np

from twincheck.bounds import Bound

Table = Mapping[str, Bound]
"""Bounds by `kind`."""

EXACT = Bound(reason="bytes of the data set, whole numbers and counts: nothing rounds")
"""Nothing may differ."""

DRIFT_FLOAT64 = 1e-13
"""Of losses, parameters and momentum of float64 runs, relative to the tensor or to 1, whichever is larger.

A prototype's parameters stayed within 7e-16 over 3,000 steps. Nothing amplifies: the loss falls and the step is small.
"""


def kind(name: str) -> str:
    """The row of the table that a tensor of an MLP's trace belongs to."""
    if name.startswith("batch."):
        return "batch"
    if name.startswith("epochs."):
        return f"epochs.{kind(name.removeprefix('epochs.'))}"
    if name.startswith("evaluation.") or name in ("inputs", "logits", "loss", "logits.grad"):
        return name
    last = name.rpartition(".")[2]
    return {"grad": "gradients", "weight": "parameters", "bias": "parameters"}.get(last, f"{last}s")


def table(dtype: str, terms: int, steps: float = 1) -> Table:
    """The bounds by `kind`, for products of at most `terms` terms, `steps` after both sides had the same parameters.

    A sum of n rounded terms errs by about sqrt(n) eps of its terms' size (Higham and Mary 2019, 10.1137/18M1226312);
    4 stands for the maximum over 10^5 elements of what is by nature random. A difference of parameters does a random
    walk, which grows as the square root of the steps, in float32; in float64 `DRIFT_FLOAT64` bounds it. XLA takes
    subnormal numbers for 0.
    """
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    walk = max(steps, 1) ** 0.5
    drifted = tiny + 8 * eps * (walk - 1)  # what parameters of size 1 are apart, through a curvature of 1
    product = 4 * terms**0.5 * eps * walk
    each = f"4 sqrt({terms}) eps: each number is a sum of up to {terms} products"
    log = "as the logits, from whose differences it is computed, taken as of size 1 where the loss is smaller"
    if dtype == "float64":
        drift = loss = momentum = Bound(
            DRIFT_FLOAT64, DRIFT_FLOAT64, "rounding does not add up over a run; a prototype stayed within 7e-16"
        )
    else:
        rounds = "8 eps sqrt(steps), a rounding of each update on each side, and of the last update as of its gradient"
        drift = Bound(8 * eps * walk, tiny, rounds)
        momentum = Bound(product, drifted, "as the gradients, of which it is a sum")
        loss = Bound(product, product, log)
    table = {
        "batch": EXACT,
        "inputs": Bound(4 * eps, tiny, "4 eps: a division, a difference and a division, each side in its own way"),
        "pre_activations": Bound(product, tiny, each),
        "activations": Bound(product, tiny, "as the pre-activations, whose differences pass with slope 1 at most"),
        "logits": Bound(product, tiny, "as the pre-activations"),
        "loss": loss,
        "logits.grad": Bound(product, tiny, "as the logits, whose error softmax passes on; at least `gradient_floors`"),
        "gradients": Bound(product, drifted, f"{each}; at least `gradient_floors`"),
        "momentums": momentum,
        "parameters": drift,
        "evaluation.labels": EXACT,
        "evaluation.losses": Bound(product, product, log),
        "evaluation.predictions": EXACT,
        "evaluation.correct": EXACT,
        "evaluation.loss": Bound(product, product, log),
    }
    return table | {f"epochs.{row}": table[row] for row in ("loss", "momentums", "parameters")}
