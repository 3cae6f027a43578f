"""Faults of the optimizer."""

from functools import partial
from typing import Any

from mlp_compare.parity.faults.fault import Fault, wrapped


def _jax(name: str, make: Any) -> Any:
    """Returns a plant that replaces `name` of `jax_mlp.optimizer` by `make`, which takes optax and the arguments."""

    def replacement(original: Any, *arguments: Any, **options: Any) -> Any:
        import optax

        return make(optax, *arguments, **options)

    return wrapped(f"jax_mlp.optimizer:{name}", replacement)


def _averaged_velocity(optax: Any, rate: float, momentum: float, *rest: Any) -> Any:
    """Returns SGD with v = m v + (1 - m) g, the convention of Adam's first moment."""
    return optax.chain(optax.scale(1 - momentum), optax.trace(momentum), optax.scale(-rate))


def _rate_in_velocity(optax: Any, rate: float, momentum: float, *rest: Any) -> Any:
    """Returns SGD with v = m v + lr g and p -= v, the convention of Sutskever et al. 2013."""
    return optax.chain(optax.scale(rate), optax.trace(momentum), optax.scale(-1))


def _decoupled_decay(optax: Any, rate: float, momentum: float, nesterov: bool, decay: float) -> Any:
    """Returns SGD with weight decay after the momentum, as in AdamW or in a chain of the wrong order."""
    return optax.chain(optax.trace(momentum), optax.add_decayed_weights(decay), optax.scale(-rate))


def _rounded_update(optax: Any, rate: float, *rest: Any) -> Any:
    def to_float32_and_back(updates: Any, params: Any) -> Any:
        return optax.tree.cast(optax.tree.cast(updates, "float32"), "float64")

    return optax.chain(optax.scale(-rate), optax.stateless(to_float32_and_back))


_torch_sgd = partial(wrapped, "reference_torch.optimizer:sgd")
"""Returns a plant that replaces `sgd` by a function that takes the original and its arguments."""


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


def _corrected_for(more_steps: int) -> Any:
    """Returns a plant for a bias correction that is that of so many steps later; after many there is none."""

    def make(original: Any, *rates: float) -> Any:
        right = original(*rates)

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            updates, after = right.update(updates, state._replace(count=state.count + more_steps), params)
            return updates, after._replace(count=state.count + 1)

        return right._replace(update=update)

    return wrapped("jax_mlp.optimizer:scale_by_adam", make)


def _rate_in_moments(optax: Any, rate: float, *betas: float, **rest: Any) -> Any:
    """Returns Adam with the learning rate before the moments, which divide it away."""
    return optax.chain(optax.scale(rate), optax.scale_by_adam(*betas[:3]), optax.scale(-rate))


def _decay_without_rate(optax: Any, rate: float, *betas: float, **rest: Any) -> Any:
    """Returns AdamW whose weight decay is not times the learning rate, as in the paper's own notation."""
    *betas_and_epsilon, decay = betas
    return optax.chain(optax.scale_by_adam(*betas_and_epsilon), optax.scale(-rate), optax.add_decayed_weights(-decay))


def _torch_adam(edit: Any) -> Any:
    """Returns a plant that passes each parameter's state through `edit`, in place, before all steps but the first."""

    def adam(original: Any, *arguments: Any, **options: Any) -> Any:
        optimizer = original(*arguments, **options)

        def edit_all(*rest: Any) -> None:
            for state in optimizer.state.values():
                if "step" in state:
                    edit(state)

        optimizer.register_step_pre_hook(edit_all)
        return optimizer

    return wrapped("torch.optim:Adam", adam)


def _flush_small(state: Any) -> None:
    """Sets second moments below a millionth of the largest to 0 after step 5."""
    if state["step"] >= 5:
        squares = state["exp_avg_sq"]
        squares[squares < 1e-6 * squares.max()] = 0


_MOMENTUM = {"momentum": 0.9}
_DECAY = {"momentum": 0.9, "weight_decay": 1e-4}
_ADAM = {"optimizer": "adam", "learning_rate": 0.001}
_ADAM_DECAY = _ADAM | {"weight_decay": 0.01}
_ADAMW = _ADAM_DECAY | {"optimizer": "adamw"}

FAULTS = [
    Fault("learning rate 1 % off", "jax", 1, "layers.0.weight", dtype="float32", flags={"learning_rate": 0.0101}),
    Fault("learning rate 0.01 % off", "torch", 1, "layers.0.weight", flags={"learning_rate": 0.010001}),
    Fault("velocity is an average", "jax", 1, "layers.0.weight.momentum", config=_MOMENTUM,
          plant=_jax("sgd", _averaged_velocity)),
    Fault("learning rate inside the velocity", "jax", 1, "layers.0.weight.momentum", config=_MOMENTUM,
          plant=_jax("sgd", _rate_in_velocity)),
    Fault("momentum 0.90001", "jax", 2, "layers.0.weight.momentum", config=_MOMENTUM, flags={"momentum": 0.90001}),
    Fault("Nesterov on one side", "torch", 1, "layers.0.weight", config=_MOMENTUM, flags={"nesterov": True}),
    Fault("decay decoupled", "jax", 1, "layers.0.weight.momentum", config=_DECAY, plant=_jax("sgd", _decoupled_decay)),
    Fault("decay 1 % off", "torch", 1, "layers.0.weight", config={"weight_decay": 1e-4},
          flags={"weight_decay": 1.01e-4}),
    Fault("decay of biases only", "torch", 1, "layers.0.weight.momentum", config=_DECAY,
          plant=_torch_sgd(_decay_of(1))),
    Fault("decay of weights only", "torch", 1, "layers.0.bias.momentum", config=_DECAY, plant=_torch_sgd(_decay_of(2))),
    Fault("dampening 0.1", "torch", 2, "layers.0.weight.momentum", config=_MOMENTUM, plant=_torch_sgd(_dampened)),
    Fault("velocity lost before each step", "torch", 2, "layers.0.weight.momentum", config=_MOMENTUM,
          plant=_torch_sgd(_forgetful)),
    Fault("update before gradient", "torch", 1, "layers.0.weight", plant=_torch_sgd(_stale)),
    Fault("update rounded to float32 in a float64 run", "jax", 1, "layers.0.weight",
          plant=_jax("sgd", _rounded_update)),
    Fault("Adam's epsilon inside the root", "jax", 1, "layers.0.weight", config=_ADAM,
          plant=_jax("scale_by_adam", lambda optax, b1, b2, eps: optax.scale_by_adam(b1, b2, 0.0, eps))),
    Fault("Adam's epsilon 1e-7", "torch", 1, "layers.0.weight", config=_ADAM, dtype="float32", flags={"epsilon": 1e-7}),
    Fault("no bias correction", "jax", 1, "layers.0.weight", config=_ADAM, plant=_corrected_for(10**6)),
    Fault("bias correction one step late", "jax", 1, "layers.0.weight", config=_ADAMW, dtype="float32",
          plant=_corrected_for(1)),
    Fault("decay coupled in AdamW", "torch", 1, "layers.0.weight.first_moment", config=_ADAMW,
          flags={"optimizer": "adam"}),
    Fault("decay decoupled in Adam", "jax", 1, "layers.0.weight.first_moment", config=_ADAM_DECAY,
          flags={"optimizer": "adamw"}),
    Fault("AdamW's decay without the learning rate", "jax", 1, "layers.0.weight", config=_ADAMW,
          plant=_jax("adam", _decay_without_rate)),
    Fault("betas swapped", "torch", 1, "layers.0.weight.first_moment", config=_ADAM,
          flags={"beta1": 0.999, "beta2": 0.9}),
    Fault("beta2 0.99901", "torch", 1, "layers.0.weight.second_moment", config=_ADAM, flags={"beta2": 0.99901}),
    Fault("second moment without the square", "jax", 1, "layers.0.weight.second_moment", config=_ADAM,
          plant=wrapped("optax.tree:update_moment_per_elem_norm", lambda right, *parts: right(*parts[:3], 1))),
    Fault("learning rate inside the moments", "jax", 1, "layers.0.weight.first_moment", config=_ADAM,
          plant=_jax("adam", _rate_in_moments)),
    Fault("AMSGrad's maximum", "jax", 2, "layers.0.weight", config=_ADAM,
          plant=_jax("scale_by_adam", lambda optax, *rates: optax.scale_by_amsgrad(*rates))),
    Fault("Adam's step lost", "torch", 2, "optimizer.steps", config=_ADAM,
          plant=_torch_adam(lambda state: state["step"].zero_())),
    Fault("small second moments set to 0 after step 5", "torch", 6, "layers.0.weight.second_moment", config=_ADAM,
          plant=_torch_adam(_flush_small)),
]  # fmt: skip
