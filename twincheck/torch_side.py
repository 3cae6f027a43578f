"""The PyTorch side of a pair: any `torch.nn.Module`."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch as pytorch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mlp_workload.errors import UserError
from twincheck.recording import (
    SOWN,
    Array,
    Cotangents,
    Force,
    Place,
    Recorder,
    Recording,
    Shape,
    invoke,
    leaves,
    map_leaves,
    model_failed,
    plain_settings,
    reason,
    sowing,
)


class TorchSide:
    """A PyTorch model and its inputs. The model itself is never changed: passes run on a copy."""

    framework = "torch"

    def __init__(self, model: nn.Module, inputs: Any, call: Callable[..., Any] | None, *, train: bool) -> None:
        self.original = getattr(model, "_orig_mod", model)  # what torch.compile was given
        self.inputs = inputs
        self._call, self._train = call, train
        _require_ready(self.original)
        self._model = self.copy()
        for parameter in self._model.parameters():  # also those that are frozen have gradients to compare
            parameter.requires_grad_(parameter.is_floating_point())
        if train:
            self.require_repeatable()

    def copy(self) -> nn.Module:
        """Returns a copy of the model in the side's mode. There is no dropout: its masks would differ from JAX's."""
        try:
            model = copy.deepcopy(self.original).cpu().train(self._train)
        except (RuntimeError, TypeError) as error:
            raise UserError(f"the torch model can't be copied ({error}): give a new instance of it") from error
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        return model

    def require_repeatable(self) -> None:
        """Raises `UserError` if two runs of the model differ."""
        with pytorch.no_grad(), pytorch.compiler.set_stance("force_eager"), default_dtype("float64"):
            inputs = self.cast(self.inputs, "float64")
            first, second = (list(leaves(self._output(self.copy().double(), inputs), is_tensor)) for _ in range(2))
        if not all(map(_close, first, second)):
            raise UserError(
                f"the torch model's outputs are random{' with train=True' if self._train else ''}: "
                "set its dropout rates to 0 (attention_dropout, drop_path and the like; F.dropout takes training=)"
            )

    def at(self, model: nn.Module, inputs: Any) -> "TorchSide":
        """Returns the side of this model in another state, with other inputs."""
        return TorchSide(model, inputs, self._call, train=self._train)

    def __call__(self, model: nn.Module, inputs: Any, dtype: str) -> Any:
        """Runs a copy of the model as the side's `call` says, without recording."""
        return invoke(self._call, model, self.cast(inputs, dtype))

    def cast(self, value: Any, dtype: str) -> Any:
        """Returns nested arrays as tensors, of `dtype` if they are floating-point."""
        return map_leaves(lambda x: self._input(x, getattr(pytorch, dtype)), value, _is_array)

    @property
    def parameters(self) -> dict[str, Array]:
        """Parameters and buffers by their names in the model; those that are tied have one name."""
        named = [*self.original.named_parameters(), *self.original.named_buffers()]
        return {name: to_numpy(tensor) for name, tensor in named if tensor.is_floating_point()}

    @property
    def trainable(self) -> set[str]:
        return {name for name, parameter in self.original.named_parameters() if parameter.requires_grad}

    def run(
        self, dtype: str = "float64", force: Force | None = None, cotangents: Cotangents | None = None
    ) -> Recording:
        """Runs the model in `dtype`, forward, and backward if `cotangents` gives the gradients of its outputs."""
        model = self._model.to(kind := getattr(pytorch, dtype))
        recorder = Recorder(force)
        inputs = self.cast(self.inputs, dtype)
        default = pytorch.get_default_dtype()
        pytorch.set_default_dtype(kind)
        try:
            with (
                pytorch.set_grad_enabled(cotangents is not None),
                pytorch.compiler.set_stance("force_eager"),  # also for parts that are compiled
                _watching(model, recorder),
            ):
                output = self._output(model, inputs)
                found = list(leaves(output, is_tensor))
                if not found:
                    kind = type(output).__name__
                    raise UserError(f"the torch model returned {kind}: let call= return tensors")
            outputs = [to_numpy(tensor) for tensor in found]
            if cotangents is None:
                return Recording(recorder.calls, outputs)
            wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
            ends = [
                (tensor, pytorch.tensor(cotangent, dtype=tensor.dtype))
                for tensor, cotangent in zip(found, cotangents(outputs), strict=True)
                if tensor.requires_grad
            ]
            gradients: Sequence[pytorch.Tensor | None] = [None] * len(wanted)
            if wanted and ends:
                try:
                    gradients = pytorch.autograd.grad(
                        [tensor for tensor, _ in ends], list(wanted.values()), [e for _, e in ends], allow_unused=True
                    )
                except RuntimeError as error:
                    raise UserError(f"the torch model's backward pass failed: {reason(error)}") from error
        finally:
            pytorch.set_default_dtype(default)
        named = {
            name: to_numpy(pytorch.zeros_like(wanted[name]) if gradient is None else gradient)
            for name, gradient in zip(wanted, gradients, strict=True)
        }
        return Recording(recorder.calls, outputs, named)

    def narrows(self) -> bool:
        """Tells whether values of a smaller type than float64 are in what the model computes in a float64 pass."""
        model, inputs = self._model.to(pytorch.float64), self.cast(self.inputs, "float64")
        eager = pytorch.compiler.set_stance("force_eager")
        smaller: Any = _SmallerTypes()  # type: ignore[no-untyped-call]
        with pytorch.no_grad(), eager, default_dtype("float64"), smaller:
            outputs = leaves(self._output(model, inputs), is_tensor)
        return bool(smaller.seen) or any(t.is_floating_point() and t.dtype != pytorch.float64 for t in outputs)

    def _output(self, model: nn.Module, inputs: Any) -> Any:
        try:
            return invoke(self._call, model, inputs)
        except UserError:
            raise
        except Exception as error:
            raise model_failed("torch", error) from error

    @staticmethod
    def _input(value: Any, dtype: Any) -> pytorch.Tensor:
        tensor = value.detach() if isinstance(value, pytorch.Tensor) else pytorch.as_tensor(np.array(value))
        return tensor.to(dtype).requires_grad_() if tensor.is_floating_point() else tensor


class _SmallerTypes(TorchDispatchMode):
    """Watches for operations that make float64 of a smaller floating-point type."""

    seen = False

    def __torch_dispatch__(self, function: Any, types: Any, inputs: Any = (), keywords: Any = None) -> Any:
        output = function(*inputs, **(keywords or {}))
        taken = {tensor.dtype for tensor in leaves((inputs, keywords), is_tensor) if tensor.is_floating_point()}
        given = {tensor.dtype for tensor in leaves(output, is_tensor)}
        self.seen |= bool(taken - {pytorch.float64}) and pytorch.float64 in given
        return output


def _require_ready(model: Any) -> None:
    if isinstance(model, type):
        raise UserError(f"torch takes an instance, torch({model.__name__}(...), ...), not the class")
    if not isinstance(model, nn.Module):
        raise UserError(f"torch takes a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, pytorch.jit.ScriptModule):
        raise UserError("torch takes the model from before torch.jit: a scripted module shows no values")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if isinstance(tensor, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            raise UserError(
                f"the torch model's {name} has no shape yet: run the model on its inputs once before the check"
            )
        if tensor.is_meta:
            raise UserError(
                f"the torch model's {name} is on the meta device: load weights, or model.to_empty(device='cpu')"
            )


def to_numpy(tensor: pytorch.Tensor) -> Array:
    """Returns a copy of a tensor; types that NumPy lacks become float32."""
    tensor = tensor.detach().cpu()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if tensor.is_floating_point() and tensor.dtype not in (pytorch.float16, pytorch.float32, pytorch.float64):
        tensor = tensor.float()
    return tensor.numpy().copy()


@contextlib.contextmanager
def default_dtype(dtype: str) -> Iterator[None]:
    """Sets PyTorch's default type for a while."""
    before = pytorch.get_default_dtype()
    pytorch.set_default_dtype(getattr(pytorch, dtype))
    try:
        yield
    finally:
        pytorch.set_default_dtype(before)


def _close(a: pytorch.Tensor, b: pytorch.Tensor) -> bool:
    kind = pytorch.complex128 if a.is_complex() else pytorch.float64
    a, b = a.to(kind), b.to(kind)
    largest = float(a.abs().nan_to_num(0.0, posinf=0.0).max()) if a.numel() else 0.0
    return a.shape == b.shape and pytorch.allclose(a, b, rtol=0.0, atol=1e-9 * largest, equal_nan=True)


def is_tensor(value: Any) -> bool:
    return isinstance(value, pytorch.Tensor)


def _is_array(value: Any) -> bool:
    return isinstance(value, pytorch.Tensor | np.ndarray) or (hasattr(value, "__array__") and hasattr(value, "dtype"))


class _Visit(pytorch.autograd.Function):
    """Shows a tensor and its gradient to the recorder, and goes on with the values that it gives back."""

    @staticmethod
    def forward(ctx: Any, tensor: pytorch.Tensor, place: Place, recorder: Recorder) -> pytorch.Tensor:
        ctx.place, ctx.recorder = place, recorder
        return _visited(tensor, place, recorder)

    @staticmethod
    def backward(ctx: Any, *gradients: pytorch.Tensor) -> tuple[pytorch.Tensor, None, None]:
        return _visited(gradients[0], ctx.place._replace(gradient=True), ctx.recorder), None, None


def _visited(tensor: pytorch.Tensor, place: Place, recorder: Recorder) -> pytorch.Tensor:
    value = recorder.visit(place, to_numpy(tensor))
    if value is None:
        return tensor.clone()
    return pytorch.tensor(value.reshape(tensor.shape), dtype=tensor.dtype)  # no view: the model may change it in place


@contextlib.contextmanager
def _watching(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    numbers: list[int] = []

    def visit_all(value: Any, path: str, port: Any) -> Any:
        count = iter(range(10_000))

        def visit(tensor: pytorch.Tensor) -> Any:
            place = Place(path, numbers[-1], port, next(count))
            if tensor.is_floating_point():
                return _Visit.apply(tensor, place, recorder)  # type: ignore[no-untyped-call]
            recorder.visit(place, to_numpy(tensor))
            return tensor

        return map_leaves(visit, value, is_tensor)

    def show(name: str, value: Any) -> Any:
        numbers.append(recorder.begin(name, SOWN, {}, {})[1])
        value = visit_all(value, name, "output")
        numbers.pop()
        recorder.end()
        return value

    def begin(path: str, module: nn.Module) -> Callable[..., Any]:
        own = {
            name: Shape(tuple(tensor.shape))
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        }
        settings = plain_settings({k: v for k, v in vars(module).items() if not k.startswith("_")})

        def hook(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            numbers.append(recorder.begin(path, type(module).__name__, own, settings)[1])
            return visit_all((inputs, keywords), path, "input")

        return hook

    def end(path: str) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: Any, keywords: Any, output: Any) -> Any:
            output = visit_all(output, path, "output")
            numbers.pop()
            recorder.end()
            return output

        return hook

    with contextlib.ExitStack() as hooks:
        hooks.enter_context(sowing(show))
        for path, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(begin(path, module), with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(end(path), with_kwargs=True))
        yield
