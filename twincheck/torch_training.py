"""The torch model in training: its passes and its optimizer's steps."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mlp_workload.errors import UserError
from twincheck.recording import Array, clear_errors, has_shape, leaves, map_leaves, reason
from twincheck.torch_side import TorchSide, default_dtype, is_tensor, to_numpy
from twincheck.training_result import Pass

_EXAMPLE = "lambda model: AdamW(model.parameters())"
_BATCH = "a batch is (inputs, targets), with inputs as in torch(model, inputs=)"
_LOSS = "it takes the torch model's output and the batch's targets; targets that are arrays come as tensors"
_STEP = "it is called without arguments, with the gradients in the model's parameters"


class TorchRun:
    """The torch model's passes, and the steps of its optimizer."""

    def __init__(
        self, side: TorchSide, make: Callable[[torch.nn.Module], Any], loss: Callable[[Any, Any], Any]
    ) -> None:
        self._side, self._loss = side, loss
        self.model = side.copy().double()
        if not side.trainable:
            raise UserError("the torch model has no parameters to train: all are frozen")
        self._copies = {dtype: side.copy().to(getattr(torch, dtype)) for dtype in ("float64", "float32")}
        try:
            made = make(self.model)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"torch_optimizer takes the model, as {_EXAMPLE}: {reason(error)}") from error
        self._step = getattr(made, "step", made)
        if not callable(self._step):
            raise UserError(f"torch_optimizer must return an optimizer or a function, not {type(made).__name__}")
        self._names = {id(parameter): name for name, parameter in self.model.named_parameters()}

    @property
    def state(self) -> dict[str, Array]:
        """Returns parameters and buffers by name."""
        return {name: to_numpy(t) for name, t in [*self.model.named_parameters(), *self.model.named_buffers()]}

    def run(self, inputs: Any, targets: Any, dtype: str) -> Pass:
        """Runs the model forward and backward, without a change to it."""
        model = self._copies[dtype]
        model.load_state_dict(self.model.state_dict())
        with default_dtype(dtype):
            with clear_errors("the torch model", f"{_BATCH}, and these inputs have {_shapes(inputs)}"):
                output = self._side(model, inputs, dtype)
            found = list(leaves(output, is_tensor))
            ends = [t.detach().requires_grad_(t.is_floating_point()) for t in found]
            given = iter(ends)
            with clear_errors("torch_loss", _LOSS):
                wanted = map_leaves(torch.Tensor.detach, self._side.cast(targets, dtype), is_tensor)
                loss = self._loss(map_leaves(lambda _: next(given), output, is_tensor), wanted)
            if not is_tensor(loss) or loss.numel() != 1 or not loss.requires_grad:
                raise UserError("torch_loss must return one number as a tensor, computed from the model's output")
            floats = [end for end in ends if end.requires_grad]
            slopes = iter(torch.autograd.grad(loss, floats, allow_unused=True, materialize_grads=True))
            cotangents = [next(slopes) if end.requires_grad else torch.zeros(end.shape) for end in ends]
            used = [(t, c) for t, c in zip(found, cotangents, strict=True) if t.requires_grad]
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(
                [t for t, _ in used], list(trained.values()), [c for _, c in used], allow_unused=True
            )
        return Pass(
            [to_numpy(t) for t in found],
            loss.item(),
            [to_numpy(c) for c in cotangents],
            {name: to_numpy(g) for name, g in zip(trained, gradients, strict=True) if g is not None},
            {name: to_numpy(b) for name, b in model.named_buffers()},
        )

    def update(self, computed: Pass) -> tuple[dict[str, Array], dict[str, Any], Mapping[str, Array] | None]:
        """Steps the optimizer. Returns the gradients that it got, its settings by parameter, and the average if any."""
        for name, parameter in self.model.named_parameters():
            gradient = computed.gradients.get(name)
            parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=parameter.dtype)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(torch.tensor(computed.buffers[name]))
        entering: dict[str, Array] = {}
        settings: dict[str, Any] = {}
        held: set[int] = set()

        def watch(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for group in optimizer.param_groups:
                held.update(map(id, group["params"]))
                plain = {key: value for key, value in group.items() if key != "params"}
                for parameter in group["params"]:
                    if (name := self._names.get(id(parameter))) and parameter.grad is not None:
                        entering[name] = to_numpy(parameter.grad)
                        settings[name] = plain | {"kind": type(optimizer).__name__}

        hook = register_optimizer_step_pre_hook(watch)
        try:
            # NAdam keeps a product in the default type.
            with default_dtype("float64"), clear_errors("the step of torch_optimizer", _STEP):
                returned = self._step()
        finally:
            hook.remove()
        if held and held.isdisjoint(self._names):
            raise UserError(f"torch_optimizer must train the model that it is given, a copy, as {_EXAMPLE}")
        average = None
        if isinstance(returned, torch.nn.Module):
            named = getattr(returned, "module", returned).named_parameters()
            average = {name: to_numpy(parameter) for name, parameter in named}
        return entering, settings, average

    def round(self, dtype: str) -> None:
        """Rounds the parameters and buffers to `dtype`."""
        with torch.no_grad():
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                if tensor.is_floating_point():
                    tensor.copy_(tensor.to(getattr(torch, dtype)))


def _shapes(value: Any) -> str:
    return ", ".join(f"shape {tuple(array.shape)} of {array.dtype}" for array in leaves(value, has_shape))
