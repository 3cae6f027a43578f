"""One forward and backward pass of any `torch.nn.Module`, tensor by tensor; see `record_jax.py`."""

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
    """What `loss(model(*inputs))` and its gradients consist of, copied, in causal order:

    - the parameters, by their names in `state_dict`
    - `PATH.input` and `PATH.output` of each call of a module without children, as they happen; of the second call
      `PATH.1.input`, and `PATH.input.0` where it takes several tensors
    - `output`, what the model returns; `loss`; `output.grad`
    - `NAME.grad` of each parameter that asks for one, that of the last module called first
    - the buffers of `state_dict` after the pass, but for BatchNorm's `num_batches_tracked`, which Flax lacks

    Shapes are the model's own; `twincheck.trace.rename` brings two models' names and layouts together. The model
    runs in the mode it is in, draws what it draws (dropout can't agree with another framework's) and keeps its buffers
    as a pass leaves them; its parameters' `grad` is not touched.

    A parameter that the loss does not depend on has no gradient in torch, and zeros in JAX. JAX differentiates `loss`
    by the output alone, torch also by parameters that `loss` itself uses: use none.

    Warns on standard error if the output is not float64: rounding hides small mistakes then.

    Raises `UserError` where the model does not return one tensor, the loss is not one number, a parameter has no
    gradient, or two tensors have one name.
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
    """Tensors by name in the order they are taken, and the paths of modules in the order they are called."""

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self.calls: list[str] = []

    def take(self, name: str, value: Any) -> None:
        """Copies `value`, or what tensors it holds, at once: the model may go on to overwrite them."""
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
        if _is_leaf(module) and path:  # the root's is `record`'s to take
            self.take(join(self._call(path), "output"), output)

    def _call(self, path: str) -> str:
        return numbered(path, self.calls.count(path) - 1)


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _leaves(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in `value`, those in containers as `NAME.0` or `NAME.key`; what is no tensor is left out."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping | tuple | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(f"{name}.{key}", part)
