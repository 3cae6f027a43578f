"""Records one forward and backward pass of any `torch.nn.Module`; see also `twincheck/record_jax.py`."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from mlp_workload.errors import UserError
from twincheck.calls import arguments, backward_order, join, numbered
from twincheck.trace import Array, Trace, warn_of_rounding


def record(model: nn.Module, loss: Callable[[torch.Tensor], torch.Tensor], *inputs: Any) -> Trace:
    """Returns copies of all tensors of `loss(model(*inputs))` and its gradients, in causal order:

    - the parameters, by their names in `state_dict`
    - `PATH.input` and `PATH.output` of each call of a module without children, in the order of the calls. The second
      call is `PATH.1.input`; several arguments are `PATH.input.0` and so on.
    - `output`, which the model returns; `loss`; `output.grad`
    - `NAME.grad` of each parameter that requires one, those of the last module called first
    - the buffers of `state_dict` after the pass, without BatchNorm's `num_batches_tracked`, which Flax lacks

    Shapes are the model's own; `twincheck.trace.rename` maps the names and layouts of one model to another's. The model
    runs in its current mode and keeps the buffers that the pass leaves; `grad` of its parameters stays. Dropout cannot
    agree between frameworks.

    A parameter that the loss does not depend on has no gradient in torch, and a zero gradient in JAX. `loss` must not
    use parameters: JAX differentiates it by the output alone.

    Warns on standard error if the output is not float64, because rounding then hides small mistakes.

    Raises `UserError` if the model does not return one tensor, the loss is not a scalar, a parameter has no gradient,
    or two tensors have one name.
    """
    recording = _Recording()
    parameters = dict(model.named_parameters())
    recording.take_all(parameters)
    with recording.watching(model):
        output = model(*inputs)
    if not isinstance(output, torch.Tensor):
        raise UserError(f"the model returns {type(output).__name__}, expected one tensor: wrap it")
    if not output.requires_grad:
        output = output.detach().requires_grad_()
    recording.take("output", output)
    value = loss(output)
    if value.shape != ():
        raise UserError(f"the loss has shape {tuple(value.shape)}, expected one number: take its mean or its sum")
    recording.take("loss", value)
    wanted = [name for name in backward_order(parameters, recording.calls) if parameters[name].requires_grad]
    output_gradient, *gradients = torch.autograd.grad(
        value, [output, *(parameters[name] for name in wanted)], allow_unused=True
    )
    for name, gradient in zip(["output", *wanted], [output_gradient, *gradients], strict=True):
        if gradient is None:
            raise UserError(f"{name} has no gradient: the loss does not depend on it")
        recording.take(f"{name}.grad", gradient)
    saved = model.state_dict()
    recording.take_all(
        {
            name: buffer
            for name, buffer in model.named_buffers()
            if name in saved and name.rpartition(".")[2] != "num_batches_tracked"
        }
    )
    warn_of_rounding(recording.tensors["output"])
    return Trace(recording.tensors, {"framework": "torch", "version": torch.__version__})


class _Recording:
    """Tensors by name in the order of recording, and paths of modules in the order of their calls."""

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self.calls: list[str] = []

    def take(self, name: str, value: Any) -> None:
        """Records a copy of the tensor `value`, or of all tensors in it, before the model can overwrite them."""
        for leaf, tensor in _leaves(name, value):
            if leaf in self.tensors:
                raise UserError(f"two tensors of the pass are called {leaf}: rename one in the model")
            dense = tensor.detach().cpu().to_dense() if tensor.is_sparse else tensor.detach().cpu()
            try:
                self.tensors[leaf] = dense.numpy().copy()
            except TypeError as error:
                raise UserError(f"{leaf} is {tensor.dtype}, which NumPy lacks: record the model in float32") from error

    def take_all(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.take(name, value)

    @contextlib.contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        with contextlib.ExitStack() as hooks:
            for path, module in model.named_modules():
                begins, ends = partial(self._begins, path), partial(self._ends, path)
                hooks.enter_context(module.register_forward_pre_hook(begins, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(ends))
            yield

    def _begins(self, path: str, module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        self.calls.append(path)
        if _is_leaf(module):
            self.take(join(self._call(path), "input"), arguments(inputs, keywords))

    def _ends(self, path: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if _is_leaf(module) and path:  # `record` takes the output of the root
            self.take(join(self._call(path), "output"), output)

    def _call(self, path: str) -> str:
        return numbered(path, self.calls.count(path) - 1)


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _leaves(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the tensors in `value`, those in containers as `NAME.0` or `NAME.key`; anything else is left out."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping | tuple | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(f"{name}.{key}", part)
