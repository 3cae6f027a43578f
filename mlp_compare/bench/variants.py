"""The variants that the benchmark times: ways of training the same network, and the matrix products alone."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from mlp_compare.parity.bound_table import DRIFT_FLOAT64


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A class to time. `target` is its "package.module:name"; it is made with (config, dataset, initial weights).

    `kind` is the group in which it is compared, `needs` the packages it imports, `device` where it runs. If an
    `optional` variant fails, it is left out with the reason. `apart` bounds its parameters in the float64 check.
    """

    name: str
    kind: Literal["jax", "torch", "peer", "lower_bound", "seeds"]
    target: str
    needs: tuple[str, ...] = ()
    device: Literal["any", "cpu", "gpu"] = "any"
    optional: bool = False
    apart: float = DRIFT_FLOAT64

    def load(self) -> Any:
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)

    @property
    def missing(self) -> str:
        """The first of `needs` that is not installed, or an empty string."""
        return next((package for package in self.needs if find_spec(package) is None), "")


VARIANTS = {
    "jax": Variant(name="JAX, an epoch a program", kind="jax", target="jax_mlp.trainer:Trainer"),
    "jax-step": Variant(name="JAX, a step a program", kind="jax", target="jax_mlp.variants:PerStep"),
    "torch": Variant(name="PyTorch, eager", kind="torch", target="reference_torch.trainer:Trainer"),
    "torch-fused": Variant(name="PyTorch, eager, fused SGD", kind="torch", target="reference_torch.variants:Fused"),
    "torch-compile": Variant(
        name="PyTorch, torch.compile", kind="torch", target="reference_torch.variants:Compiled", optional=True
    ),
    "torch-autotune": Variant(
        name="PyTorch, torch.compile, max-autotune", kind="torch", target="reference_torch.variants:CompiledAutotuned",
        optional=True,
    ),
    "torch-hand": Variant(name="PyTorch, backward by hand", kind="torch", target="reference_torch.variants:ByHand"),
    "torch-tutorial": Variant(
        name="PyTorch, the tutorial's loop", kind="torch", target="reference_torch.variants:TutorialLoop"
    ),
    "torch-step-graph": Variant(
        name="PyTorch, CUDA graph of a step", kind="torch", target="reference_torch.variants:StepGraph", device="gpu"
    ),
    "torch-epoch-graph": Variant(
        name="PyTorch, CUDA graph of an epoch", kind="torch", target="reference_torch.variants:EpochGraph", device="gpu"
    ),
    "keras-jax": Variant(
        name="Keras 3 on JAX", kind="peer", target="mlp_compare.bench.peers:Keras", needs=("keras",), device="cpu",
        optional=True,
    ),
    "keras-torch": Variant(
        name="Keras 3 on PyTorch", kind="peer", target="mlp_compare.bench.peers:KerasTorch", needs=("keras",),
        device="cpu", optional=True, apart=1e-7,  # its cross-entropy is 4e-9 off in float64 too (Keras 3.15)
    ),
    "sklearn": Variant(
        name="scikit-learn MLPClassifier", kind="peer", target="mlp_compare.bench.peers:ScikitLearn",
        needs=("sklearn",), device="cpu", optional=True,
    ),
    "products-torch": Variant(
        name="products alone, PyTorch", kind="lower_bound", target="mlp_compare.bench.lower_bound:Torch"
    ),
    "products-numpy": Variant(
        name="products alone, NumPy", kind="lower_bound", target="mlp_compare.bench.lower_bound:NumPy", device="cpu"
    ),
    "products-jax": Variant(name="products alone, JAX", kind="lower_bound", target="mlp_compare.bench.lower_bound:Jax"),
}  # fmt: skip
MODELS = 8
"""Number of models in each of `SEEDS_VARIANTS`."""
SEEDS_VARIANTS = {
    "jax-in-turn": Variant(
        name="JAX, one after another", kind="seeds", target="jax_mlp.variants:SeedsInTurn"
    ),
    "jax-seeds": Variant(name="JAX, --seeds", kind="seeds", target="jax_mlp.variants:Seeds"),
    "jax-vmap": Variant(
        name="JAX, one vmapped program", kind="seeds", target="jax_mlp.variants:SeedsVmapped", device="cpu"
    ),
    "torch-in-turn": Variant(
        name="PyTorch by hand, one after another", kind="seeds", target="reference_torch.variants:SeedsInTurn"
    ),
    "torch-processes": Variant(
        name="PyTorch by hand, a process a core", kind="seeds", target="reference_torch.variants:SeedsInProcesses",
        device="cpu",
    ),
    "torch-vmap": Variant(
        name="PyTorch, torch.func.vmap", kind="seeds", target="reference_torch.variants:SeedsVmapped"
    ),
}  # fmt: skip
"""Ways of training `MODELS` models; the others are compared with the first."""
CONTROL = "again"
"""The first variant a second time, which must be as fast as itself."""
QUICK = ("jax", "torch", "torch-hand", "products-torch", "products-jax")
