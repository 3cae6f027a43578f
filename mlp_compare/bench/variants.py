"""What the benchmark times: ways of training the same network, and the floors below them."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

PARAMETERS_APART = 1e-13
"""Allowed by `mlp_compare.parity.bound_table` in float64 after 3,000 steps; the check trains on some dozens."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """`target` is "package.module:name" of what is made with (config, dataset, initial weights).

    `kind` says what it is compared as; `needs` are importable packages, `device` where it runs. One that is `optional`
    is left out, with its reason, where it fails. After the check in float64 its parameters are `apart` at most.
    """

    name: str
    kind: Literal["jax", "torch", "peer", "floor", "many"]
    target: str
    needs: tuple[str, ...] = ()
    device: Literal["any", "cpu", "gpu"] = "any"
    optional: bool = False
    apart: float = PARAMETERS_APART

    def load(self) -> Any:
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)

    @property
    def missing(self) -> str:
        """The package that is needed and not there, or nothing."""
        return next((package for package in self.needs if find_spec(package) is None), "")


RUNGS = {
    "jax": Rung(name="JAX, an epoch a program", kind="jax", target="jax_mlp.trainer:Trainer"),
    "jax-step": Rung(name="JAX, a step a program", kind="jax", target="jax_mlp.variants:PerStep"),
    "torch": Rung(name="PyTorch, eager", kind="torch", target="reference_torch.trainer:Trainer"),
    "torch-fused": Rung(name="PyTorch, eager, fused SGD", kind="torch", target="reference_torch.variants:Fused"),
    "torch-compile": Rung(
        name="PyTorch, torch.compile", kind="torch", target="reference_torch.variants:Compiled", optional=True
    ),
    "torch-autotune": Rung(
        name="PyTorch, torch.compile, max-autotune", kind="torch", target="reference_torch.variants:CompiledAutotuned",
        optional=True,
    ),
    "torch-hand": Rung(name="PyTorch, backward by hand", kind="torch", target="reference_torch.variants:ByHand"),
    "torch-article": Rung(
        name="PyTorch, the tutorial's loop", kind="torch", target="reference_torch.variants:TutorialLoop"
    ),
    "torch-step-graph": Rung(
        name="PyTorch, CUDA graph of a step", kind="torch", target="reference_torch.variants:StepGraph", device="gpu"
    ),
    "torch-epoch-graph": Rung(
        name="PyTorch, CUDA graph of an epoch", kind="torch", target="reference_torch.variants:EpochGraph", device="gpu"
    ),
    "keras-jax": Rung(
        name="Keras 3 on JAX", kind="peer", target="mlp_compare.bench.peers:Keras", needs=("keras",), device="cpu",
        optional=True,
    ),
    "keras-torch": Rung(
        name="Keras 3 on PyTorch", kind="peer", target="mlp_compare.bench.peers:KerasTorch", needs=("keras",),
        device="cpu", optional=True, apart=1e-7,  # its cross-entropy is 4e-9 off in float64 too (Keras 3.15)
    ),
    "sklearn": Rung(
        name="scikit-learn MLPClassifier", kind="peer", target="mlp_compare.bench.peers:ScikitLearn",
        needs=("sklearn",), device="cpu", optional=True,
    ),
    "floor-torch": Rung(name="products alone, PyTorch", kind="floor", target="mlp_compare.bench.lower_bound:Torch"),
    "floor-numpy": Rung(
        name="products alone, NumPy", kind="floor", target="mlp_compare.bench.lower_bound:NumPy", device="cpu"
    ),
    "floor-jax": Rung(name="products alone, JAX", kind="floor", target="mlp_compare.bench.lower_bound:Jax"),
}  # fmt: skip
MODELS = 8
"""That train together, or one after another, in each of these."""
MANY = {
    "jax-in-turn": Rung(
        name="JAX, one after another", kind="many", target="jax_mlp.variants:SeedsInTurn"
    ),
    "jax-many": Rung(name="JAX, --seeds", kind="many", target="jax_mlp.variants:Seeds"),
    "jax-vmap": Rung(
        name="JAX, one vmapped program", kind="many", target="jax_mlp.variants:SeedsVmapped", device="cpu"
    ),
    "torch-in-turn": Rung(
        name="PyTorch by hand, one after another", kind="many", target="reference_torch.variants:SeedsInTurn"
    ),
    "torch-processes": Rung(
        name="PyTorch by hand, a process a core",
        kind="many",
        target="reference_torch.variants:SeedsInProcesses",
        device="cpu",
    ),
    "torch-vmap": Rung(name="PyTorch, torch.func.vmap", kind="many", target="reference_torch.variants:SeedsVmapped"),
}  # fmt: skip
"""Ways of training `MODELS` models; the first one is what the others are compared with."""
CONTROL = "again"
"""The first rung a second time, which must come out as fast as itself."""
QUICK = ("jax", "torch", "torch-hand", "floor-torch", "floor-jax")
