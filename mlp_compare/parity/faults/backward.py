"""Faults of the loss and the gradients."""

from collections.abc import Callable
from functools import cache
from typing import Any

from mlp_compare.parity.faults.fault import LARGE_BATCHES, Fault, replaced, wrapped
from mlp_compare.parity.faults.start import near_zero
from mlp_workload.batches import step_batch
from mlp_workload.data import load


def _jax_mean(mean: Callable[[Any], Any]) -> Any:
    return replaced("jax_mlp.loss:Loss.mean", lambda original: property(mean))


def _torch_loss(edit: Callable[[Any], Any]) -> Any:
    """Returns a plant that makes the loss of a torch step `edit(losses of the examples)`."""

    def cross_entropy(original: Any, *arguments: Any, reduction: str = "mean", **options: Any) -> Any:
        if reduction != "mean":
            return original(*arguments, reduction=reduction, **options)
        return edit(original(*arguments, reduction="none", **options))

    return wrapped("torch.nn.functional:cross_entropy", cross_entropy)


def _scaled_backward(original: Any, logits: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Returns a loss with the right value and a gradient 1.0001 times too large."""
    import jax

    right = original(logits, labels, smoothing)
    return type(right)(1.0001 * right.per_example - 0.0001 * jax.lax.stop_gradient(right.per_example))


def _torch_gradient(name: str, edit: Callable[[Any], Any], in_step: Callable[[Any], bool] = lambda labels: True) -> Any:
    """Returns a plant for `edit` of the gradient of parameter `name`, in the steps whose labels are `in_step`."""
    hooks: list[Any] = []

    def loss_fn(original: Any, config: Any, model: Any, x: Any, labels: Any, *rest: Any) -> Any:
        from reference_torch.weights import named_parameters

        while hooks:
            hooks.pop().remove()
        parameter = named_parameters(model)[name]
        if in_step(labels):
            hooks.append(parameter.register_hook(edit))
        return original(config, model, x, labels, *rest)

    return wrapped("reference_torch.step:loss_fn", loss_fn)


def _torch_gradient_in_step(step: int, factor: float) -> Any:
    """Returns a plant that multiplies the gradient of the first weights by `factor` in that step alone."""

    @cache
    def expected() -> Any:
        labels = load("mnist").train.labels
        return labels[step_batch(0, step, len(labels), 200)]

    def in_step(labels: Any) -> bool:
        return bool((labels.numpy() == expected()).all())

    return _torch_gradient("layers.0.weight", lambda gradient: gradient * factor, in_step)


def _jax_gradient(layer: int, kind: str, edit: Callable[[Any], Any]) -> Any:
    """Returns a plant that passes the gradient of that layer's weight or bias through `edit`."""

    def value_and_grad(original: Any, *arguments: Any, **options: Any) -> Any:
        import jax

        def edited(path: Any, leaf: Any) -> Any:
            return edit(leaf) if f"[{layer}]['{kind}']" in jax.tree_util.keystr(path) else leaf

        def run(*arguments: Any) -> Any:
            value, (gradients, *others) = right(*arguments)
            return value, (jax.tree_util.tree_map_with_path(edited, gradients), *others)

        right = original(*arguments, **options)
        return run

    return wrapped("jax_mlp.step:value_and_grad", value_and_grad)


def _with(value: float, *index: int) -> Callable[[Any], Any]:
    def edit(gradient: Any) -> Any:
        gradient = gradient.clone()
        gradient[index] = value
        return gradient

    return edit


FAULTS = [
    Fault("sum for mean", "jax", 1, "loss", plant=_jax_mean(lambda loss: loss.sum)),
    Fault("mean over the full batch size in a smaller batch", "torch", 9, "loss", config=LARGE_BATCHES,
          plant=_torch_loss(lambda losses: losses.sum() / 7000)),
    Fault("mean in float32 in a float64 run", "jax", 1, "loss",
          plant=_jax_mean(lambda loss: loss.per_example.astype("float32").mean().astype("float64"))),
    Fault("epsilon added in the logarithm", "torch", 1, "loss",
          plant=_torch_loss(lambda losses: -((-losses).exp() + 1e-9).log().mean())),
    Fault("label smoothing 1e-4", "jax", 1, "loss", flags={"label_smoothing": 1e-4}),
    Fault("gradient of the loss 1.0001 of itself", "jax", 1, "logits.grad",
          plant=wrapped("jax_mlp.step:cross_entropy", _scaled_backward)),
    Fault("one gradient 1.001 of itself", "jax", 1, "layers.1.weight.grad", dtype="float32",
          plant=_jax_gradient(1, "weight", lambda gradient: gradient * 1.001)),
    Fault("one gradient 1.001 of itself in a step with ReLU sign flips", "jax", 1, "layers.1.weight.grad",
          dtype="float32", start=near_zero, plant=_jax_gradient(1, "weight", lambda gradient: gradient * 1.001)),
    Fault("one gradient 1.1 of itself after ReLU sign flips", "torch", 3, "layers.0.weight.grad", dtype="float32",
          start=near_zero, plant=_torch_gradient_in_step(3, 1.1)),
    Fault("one gradient 1.003 of itself long after ReLU sign flips", "torch", 40, "layers.0.weight.grad",
          dtype="float32", start=near_zero, plant=_torch_gradient_in_step(40, 1.003)),
    Fault("one gradient's sign", "jax", 1, "layers.0.bias.grad",
          plant=_jax_gradient(0, "bias", lambda gradient: -gradient)),
    Fault("one gradient detached", "jax", 1, "layers.0.weight.grad",
          plant=_jax_gradient(0, "weight", lambda gradient: gradient * 0)),
    Fault("one entry of a gradient dropped", "torch", 1, "layers.1.bias.grad",
          plant=_torch_gradient("layers.1.bias", _with(0.0, 5))),
    Fault("one nan in one gradient", "torch", 1, "layers.0.weight.grad",
          plant=_torch_gradient("layers.0.weight", _with(float("nan"), 7, 300))),
    Fault("a gradient clipped", "torch", 1, "layers.2.weight.grad",
          plant=_torch_gradient("layers.2.weight", lambda gradient: gradient.clamp(-1e-3, 1e-3))),
    Fault("one gradient transposed", "torch", 1, "layers.1.weight.grad",
          plant=_torch_gradient("layers.1.weight", lambda gradient: gradient.t().contiguous())),
]  # fmt: skip
