"""The variants that the benchmark times: ways of training the same network, and the matrix products alone."""

from dataclasses import dataclass
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, Literal

from mlp_compare.parity.bound_table import DRIFT_FLOAT64


@dataclass(frozen=True)
class Variant:
    """A class to time. `target` is its "package.module:name"; it is made with (config, dataset, initial weights).

    `kind` is the group in which it is compared, `needs` a package that it imports, `device` where it runs. If an
    `optional` variant fails, it is left out with the reason. `apart` bounds its parameters in the float64 check.
    """

    name: str
    kind: Literal["jax", "torch", "peer", "lower_bound", "seeds"]
    target: str
    needs: str = ""
    device: Literal["any", "cpu", "gpu"] = "any"
    optional: bool = False
    apart: float = DRIFT_FLOAT64

    def load(self) -> Any:
        return resolve_name(self.target)

    @property
    def missing(self) -> str:
        """The package that is needed and not installed, or an empty string."""
        return self.needs if self.needs and find_spec(self.needs) is None else ""


def _torch(name: str, target: str, **options: Any) -> Variant:
    return Variant(f"PyTorch, {name}", "torch", f"reference_torch.{target}", **options)


def _peer(name: str, target: str, needs: str, **options: Any) -> Variant:
    target = f"mlp_compare.bench.peers:{target}"
    return Variant(name, "peer", target, needs, device="cpu", optional=True, **options)


def _products(name: str, target: str, **options: Any) -> Variant:
    return Variant(f"products alone, {name}", "lower_bound", f"mlp_compare.bench.lower_bound:{target}", **options)


VARIANTS = {
    "jax": Variant("JAX, an epoch a program", "jax", "jax_mlp.trainer:Trainer"),
    "jax-step": Variant("JAX, a step a program", "jax", "jax_mlp.variants:PerStep"),
    "torch": _torch("eager", "trainer:Trainer"),
    "torch-fused": _torch("eager, fused SGD", "variants:Fused"),
    "torch-compile": _torch("torch.compile", "variants:Compiled", optional=True),
    "torch-autotune": _torch("torch.compile, max-autotune", "variants:CompiledAutotuned", optional=True),
    "torch-hand": _torch("backward by hand", "variants:ByHand"),
    "torch-tutorial": _torch("the tutorial's loop", "variants:TutorialLoop"),
    "torch-step-graph": _torch("CUDA graph of a step", "variants:StepGraph", device="gpu"),
    "torch-epoch-graph": _torch("CUDA graph of an epoch", "variants:EpochGraph", device="gpu"),
    "keras-jax": _peer("Keras 3 on JAX", "Keras", "keras"),
    # Its cross-entropy is 4e-9 off in float64 too (Keras 3.15).
    "keras-torch": _peer("Keras 3 on PyTorch", "KerasTorch", "keras", apart=1e-7),
    "sklearn": _peer("scikit-learn MLPClassifier", "ScikitLearn", "sklearn"),
    "products-torch": _products("PyTorch", "Torch"),
    "products-numpy": _products("NumPy", "NumPy", device="cpu"),
    "products-jax": _products("JAX", "Jax"),
}
MODELS = 8
"""Number of models in each of `SEEDS_VARIANTS`."""
SEEDS_VARIANTS = {
    "jax-in-turn": Variant("JAX, one after another", "seeds", "jax_mlp.variants:SeedsInTurn"),
    "jax-seeds": Variant("JAX, --seeds", "seeds", "jax_mlp.variants:Seeds"),
    "jax-vmap": Variant("JAX, one vmapped program", "seeds", "jax_mlp.variants:SeedsVmapped", device="cpu"),
    "torch-in-turn": Variant("PyTorch by hand, one after another", "seeds", "reference_torch.variants:SeedsInTurn"),
    "torch-processes": Variant(
        "PyTorch by hand, a process a core", "seeds", "reference_torch.variants:SeedsInProcesses", device="cpu"
    ),
    "torch-vmap": Variant("PyTorch, torch.func.vmap", "seeds", "reference_torch.variants:SeedsVmapped"),
}
"""Ways of training `MODELS` models; the others are compared with the first."""
CONTROL = "again"
"""The first variant a second time, which must be as fast as itself."""
QUICK = ("jax", "torch", "torch-hand", "products-torch", "products-jax")
