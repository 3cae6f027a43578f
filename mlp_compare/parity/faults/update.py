"""Faults of the optimizer."""

from typing import Any

from mlp_compare.parity.faults.fault import Fault, replaced


def _jax_sgd(make: Any) -> Any:
    """Returns a plant that replaces `jax_mlp.optimizer.sgd` by `make`, which has the same arguments."""
    return replaced("jax_mlp.step:sgd", lambda original: make)


def _averaged_velocity(learning_rate: float, momentum: float, nesterov: bool, weight_decay: float) -> Any:
    """Returns SGD with v = m v + (1 - m) g, the convention of Adam's first moment."""
    import optax

    return optax.chain(optax.scale(1 - momentum), optax.trace(momentum), optax.scale(-learning_rate))


def _rate_in_velocity(learning_rate: float, momentum: float, nesterov: bool, weight_decay: float) -> Any:
    """Returns SGD with v = m v + lr g and p -= v, the convention of Sutskever et al. 2013."""
    import optax

    return optax.chain(optax.scale(learning_rate), optax.trace(momentum), optax.scale(-1))


def _decoupled_decay(learning_rate: float, momentum: float, nesterov: bool, weight_decay: float) -> Any:
    """Returns SGD with weight decay after the momentum, as in AdamW or in a chain of the wrong order."""
    import optax

    return optax.chain(optax.trace(momentum), optax.add_decayed_weights(weight_decay), optax.scale(-learning_rate))


def _rounded_update(learning_rate: float, momentum: float, nesterov: bool, weight_decay: float) -> Any:
    import jax
    import optax

    def to_float32_and_back(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda update: update.astype("float32").astype(update.dtype), updates)

    return optax.chain(optax.scale(-learning_rate), optax.stateless(to_float32_and_back))


def _torch_sgd(make: Any) -> Any:
    """Returns a plant that replaces `sgd` by `make`, which takes the original and its arguments."""
    return replaced("reference_torch.trainer:sgd", lambda original: lambda *arguments: make(original, *arguments))


def _decay_of(dimensions: int) -> Any:
    """Returns SGD that decays only parameters with that many dimensions: 1 for biases, 2 for weights."""

    def make(
        original: Any, parameters: Any, learning_rate: float, momentum: float, nesterov: bool, decay: float
    ) -> Any:
        import torch

        groups = [{"params": [p], "weight_decay": decay if p.ndim == dimensions else 0.0} for p in parameters]
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=nesterov)

    return make


def _dampened(original: Any, parameters: Any, learning_rate: float, momentum: float, *rest: Any) -> Any:
    import torch

    return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, dampening=0.1)


def _forgetful(original: Any, *arguments: Any) -> Any:
    """Returns an optimizer that loses its velocity before each step."""
    optimizer = original(*arguments)
    optimizer.register_step_pre_hook(lambda optimizer, *rest: optimizer.state.clear())
    return optimizer


def _stale(original: Any, *arguments: Any) -> Any:
    """Returns an optimizer that applies the gradient of the previous step."""
    optimizer = original(*arguments)
    parameters = optimizer.param_groups[0]["params"]
    held: list[Any] = [None for _ in parameters]
    new: list[Any] = []

    def exchange(*rest: Any) -> None:
        new[:] = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, held, strict=True):
            parameter.grad = gradient

    def put_back(*rest: Any) -> None:
        held[:] = new
        for parameter, gradient in zip(parameters, new, strict=True):
            parameter.grad = gradient

    optimizer.register_step_pre_hook(exchange)
    optimizer.register_step_post_hook(put_back)
    return optimizer


_MOMENTUM = {"momentum": 0.9}
_DECAY = {"momentum": 0.9, "weight_decay": 1e-4}

FAULTS = [
    Fault(name="learning rate 1 % off", side="jax", step=1, tensor="layers.0.weight", dtype="float32",
          flags={"learning_rate": 0.0101}),
    Fault(name="learning rate 0.01 % off", side="torch", step=1, tensor="layers.0.weight",
          flags={"learning_rate": 0.010001}),
    Fault(name="velocity is an average", side="jax", step=1, tensor="layers.0.weight.momentum", config=_MOMENTUM,
          plant=_jax_sgd(_averaged_velocity)),
    Fault(name="learning rate inside the velocity", side="jax", step=1, tensor="layers.0.weight.momentum",
          config=_MOMENTUM, plant=_jax_sgd(_rate_in_velocity)),
    Fault(name="momentum 0.90001", side="jax", step=2, tensor="layers.0.weight.momentum", config=_MOMENTUM,
          flags={"momentum": 0.90001}),
    Fault(name="Nesterov on one side", side="torch", step=1, tensor="layers.0.weight", config=_MOMENTUM,
          flags={"nesterov": True}),
    Fault(name="decay decoupled", side="jax", step=1, tensor="layers.0.weight.momentum", config=_DECAY,
          plant=_jax_sgd(_decoupled_decay)),
    Fault(name="decay 1 % off", side="torch", step=1, tensor="layers.0.weight", config={"weight_decay": 1e-4},
          flags={"weight_decay": 1.01e-4}),
    Fault(name="decay of biases only", side="torch", step=1, tensor="layers.0.weight.momentum", config=_DECAY,
          plant=_torch_sgd(_decay_of(1))),
    Fault(name="decay of weights only", side="torch", step=1, tensor="layers.0.bias.momentum", config=_DECAY,
          plant=_torch_sgd(_decay_of(2))),
    Fault(name="dampening 0.1", side="torch", step=2, tensor="layers.0.weight.momentum", config=_MOMENTUM,
          plant=_torch_sgd(_dampened)),
    Fault(name="velocity lost before each step", side="torch", step=2, tensor="layers.0.weight.momentum",
          config=_MOMENTUM, plant=_torch_sgd(_forgetful)),
    Fault(name="update before gradient", side="torch", step=1, tensor="layers.0.weight", plant=_torch_sgd(_stale)),
    Fault(name="update rounded to float32 in a float64 run", side="jax", step=1, tensor="layers.0.weight",
          plant=_jax_sgd(_rounded_update)),
]  # fmt: skip
