"""Two models trained side by side, each step compared from the same state.

The state is torch's: in each step both models compute from torch's parameters and buffers, and optax updates torch's
parameters with torch's gradients. So a step shows its own mistakes only, and none grows with the number of steps.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax as optax_library
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mlp_workload.errors import UserError
from twincheck.bounds import ALLOWED_EPS, ALLOWED_LOSS, EPS, ROUNDING_FLOOR
from twincheck.jax_side import JaxSide, Variables, cast, is_array
from twincheck.layouts import Layout, nearest
from twincheck.optimizer_causes import (
    StateRecord,
    explain_loss,
    explain_state,
    explain_updates,
    numbers_in,
)
from twincheck.recording import Array, Recorder, has_shape, is_float, leaves, map_leaves
from twincheck.report import Finding
from twincheck.torch_side import TorchSide, default_dtype, is_tensor, to_numpy
from twincheck.update_rules import UpdateRecord
from twincheck.weights import Weight

Kind = Literal["loss", "output", "gradient", "state", "update", "average"]


@dataclass(frozen=True)
class Difference:
    """What a step computed, in both models: the largest difference, what is allowed, and the largest value.

    `kind` "loss" is the loss at torch's outputs, or its gradient there; "state" a running statistic; "update" what the
    optimizer adds to a parameter; "average" an average of the parameters.
    """

    step: int
    kind: Kind
    name: str
    torch: str
    difference: float
    allowed: float
    scale: float

    @property
    def out(self) -> bool:
        return not self.difference <= self.allowed

    @property
    def relative(self) -> float:
        return self.difference / self.scale if self.scale else (0.0 if not self.difference else float("inf"))

    def __str__(self) -> str:
        return f"step {self.step}: {self.kind} of {self.name}, {self.relative:.1e} of its size"


@dataclass
class Training:
    """The result of `train`.

    `first` is the first difference that is out, `largest` the largest of each kind in parts of its size. `losses` are
    torch's. `drift` is the largest difference of any parameter or running statistic, at any step, when the JAX model
    trains by itself; only in float64, and without parameters whose gradient is 0 but for rounding. `notes` name these,
    and differences that are smaller than float32's rounding.
    """

    steps: int = 0
    first: Difference | None = None
    largest: dict[Kind, Difference] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    drift: float | None = None

    @property
    def same(self) -> bool:
        """Tells whether both train alike: nothing is out in any step."""
        return self.first is None and not self.findings

    def __str__(self) -> str:
        found = f"first mismatch: {self.first}" if self.first else "no mismatch"
        drift = "" if self.drift is None else f"; by itself the JAX model drifts by up to {self.drift:.1e}"
        lines = [f"{self.steps} steps, {found}{drift}"]
        lines += [f"    {kind}: up to {worst.relative:.1e} (step {worst.step})" for kind, worst in self.largest.items()]
        lines += [f"{finding.name}: {finding.says} Fix: {finding.fix}" for finding in self.findings]
        return "\n".join([*lines, *self.notes])


def train(
    pair: Any,
    batches: Iterable[Any],
    steps: int,
    *,
    torch_optimizer: Callable[[torch.nn.Module], Any],
    optax: optax_library.GradientTransformation,
    torch_loss: Callable[[Any, Any], Any],
    jax_loss: Callable[[Any, Any], Any] | None = None,
    jax_inputs: Callable[[Any], Any] | None = None,
    jax_average: Callable[[Any, Any], Any] | None = None,
    dtype: Literal["float64", "float32"] = "float64",
) -> Training:
    """Trains both models of a pair for `steps` steps and compares each step from torch's state.

    Args:
        pair: the pair; give its sides `train=True` if the models have batch norm. Dropout is always off.
        batches: `(inputs, targets)`; inputs in the form of the torch side's. They are repeated if there are too few.
        steps: the number of steps.
        torch_optimizer: takes the torch model; returns an optimizer, or a function without arguments, called once the
            gradients are there. Such a function clips, steps the optimizer and the scheduler, and may return an
            `AveragedModel`.
        optax: takes the gradients as a dict by the names of the JAX parameters.
        torch_loss: takes the torch model's output and the targets as tensors.
        jax_loss: the same for JAX; without it `torch_loss` serves for both.
        jax_inputs: turns inputs of the torch model into those of the JAX model, if that is more than a transposition.
        jax_average: `jax_average(average, parameters)` returns the new average of the parameters.
        dtype: what both models compute in. The optimizers work in float64; in float32 parameters are rounded after each
            step, and a difference counts only if it is there in float64 too, from the same state.

    No tolerance is given. Outputs, gradients and running statistics may differ by 16 eps of float32 of their largest
    value. If one differs by more, `Pair.check` is asked about every place of the models. Running statistics of Flax NNX
    and linen are compared; others are named in a note.

    An update is what the optimizer adds to a parameter. It may differ by 16 times what optax's own update loses when it
    is computed in float32 instead of float64, from the same state: no training in float32 would show less. The
    optimizers work in float64, so a setting with a smaller effect can be told from rounding too. It is reported if its
    cause is known and its effect exceeds 16 eps of float32 of the update.
    """
    if steps < 1:
        raise UserError(f"steps must be at least 1, not {steps}")
    torch_run = _TorchRun(pair.torch, torch_optimizer, torch_loss)
    jax_run = _JaxRun(pair, jax_loss or torch_loss, optax, jax_inputs, jax_average)
    compared = _Compared(pair, torch_run, jax_run, dtype)
    for inputs, targets in _repeated(batches, steps):
        compared.step(inputs, targets)
    compared.explain(numbers_in(optax))
    return compared.result


def _repeated(batches: Iterable[Any], steps: int) -> Iterator[tuple[Any, Any]]:
    source = itertools.cycle(batches) if isinstance(batches, Iterator) else batches  # only an iterator needs memory
    done = 0
    while done < steps:
        first = done
        for batch in itertools.islice(source, steps - first):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise UserError(f"a batch is a pair (inputs, targets), not {type(batch).__name__}")
            done += 1
            yield batch[0], batch[1]
        if done == first:
            raise UserError("there are no batches to train on")


@dataclass
class _Pass:
    """What torch computes in a step before its update: outputs, the loss and its gradients, and the new buffers."""

    outputs: list[Array]
    loss: float
    cotangents: list[Array]
    gradients: dict[str, Array]
    buffers: dict[str, Array]


class _TorchRun:
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
            raise UserError(
                f"torch_optimizer takes the model, as lambda model: AdamW(model.parameters()): {error}"
            ) from error
        self._step = getattr(made, "step", made)
        if not callable(self._step):
            raise UserError(f"torch_optimizer must return an optimizer or a function, not {type(made).__name__}")
        self._names = {id(parameter): name for name, parameter in self.model.named_parameters()}

    @property
    def state(self) -> dict[str, Array]:
        """Returns parameters and buffers by name."""
        return {name: to_numpy(t) for name, t in [*self.model.named_parameters(), *self.model.named_buffers()]}

    def run(self, inputs: Any, targets: Any, dtype: str) -> _Pass:
        """Runs the model forward and backward, without a change to it."""
        model = self._copies[dtype]
        model.load_state_dict(self.model.state_dict())
        with default_dtype(dtype):
            output = self._side(model, inputs, dtype)
            found = list(leaves(output, is_tensor))
            ends = [t.detach().requires_grad_(t.is_floating_point()) for t in found]
            given = iter(ends)
            wanted = map_leaves(torch.Tensor.detach, self._side.cast(targets, dtype), is_tensor)
            loss = self._loss(map_leaves(lambda _: next(given), output, is_tensor), wanted)
            if not is_tensor(loss) or loss.numel() != 1:
                raise UserError("torch_loss must return one number as a tensor")
            floats = [end for end in ends if end.requires_grad]
            slopes = iter(torch.autograd.grad(loss, floats, allow_unused=True, materialize_grads=True))
            cotangents = [next(slopes) if end.requires_grad else torch.zeros(end.shape) for end in ends]
            used = [(t, c) for t, c in zip(found, cotangents, strict=True) if t.requires_grad]
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(
                [t for t, _ in used], list(trained.values()), [c for _, c in used], allow_unused=True
            )
        return _Pass(
            [to_numpy(t) for t in found],
            loss.item(),
            [to_numpy(c) for c in cotangents],
            {name: to_numpy(g) for name, g in zip(trained, gradients, strict=True) if g is not None},
            {name: to_numpy(b) for name, b in model.named_buffers()},
        )

    def update(self, computed: _Pass) -> tuple[dict[str, Array], dict[str, Any], Mapping[str, Array] | None]:
        """Steps the optimizer. Returns the gradients that it got, its settings by parameter, and the average if any."""
        for name, parameter in self.model.named_parameters():
            gradient = computed.gradients.get(name)
            parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=parameter.dtype)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(torch.tensor(computed.buffers[name]))
        entering: dict[str, Array] = {}
        settings: dict[str, Any] = {}

        def watch(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for group in optimizer.param_groups:
                plain = {key: value for key, value in group.items() if key != "params"}
                for parameter in group["params"]:
                    if (name := self._names.get(id(parameter))) and parameter.grad is not None:
                        entering[name] = to_numpy(parameter.grad)
                        settings[name] = plain | {"kind": type(optimizer).__name__}

        hook = register_optimizer_step_pre_hook(watch)
        try:
            with default_dtype("float64"):  # which NAdam keeps a product in
                returned = self._step()
        finally:
            hook.remove()
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


class _JaxRun:
    """The JAX model's compiled passes, losses and updates, and its own training with nothing of torch's."""

    def __init__(
        self,
        pair: Any,
        loss: Callable[[Any, Any], Any],
        optimizer: optax_library.GradientTransformation,
        convert: Callable[[Any], Any] | None,
        average: Callable[[Any, Any], Any] | None,
    ) -> None:
        self.side: JaxSide = pair.jax
        self._pair, self._loss, self._optimizer, self._convert, self.average = pair, loss, optimizer, convert, average
        self._trained = sorted(self.side.trainable)
        self._template: Any = None
        self._layouts: dict[tuple[Any, ...], dict[int, Layout]] = {}
        self._shapes: dict[tuple[Any, ...], list[tuple[int, tuple[int, ...]]]] = {}
        with self.precision("float64"):
            self._values = {name: cast(array, "float64") for name, array in self.side.variables.items()}
            trained, self._rest = self.split(self._values)
            try:
                self.optimizer_state = optimizer.init(trained)
            except AttributeError as error:
                raise UserError("optax must be a GradientTransformation, such as optax.adamw(1e-3)") from error
            self._own = trained, self._rest, self.optimizer_state
        self._run = jax.jit(self._backward)
        self._loss_at = jax.jit(jax.value_and_grad(self._loss_of, has_aux=False))
        self._update = jax.jit(optimizer.update)
        self._free_step = jax.jit(self._whole_step)

    @contextlib.contextmanager
    def precision(self, dtype: str) -> Iterator[None]:
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            yield

    def split(self, values: Variables) -> tuple[Variables, Variables]:
        """Returns the trained variables and the others."""
        trained = {name: values[name] for name in self._trained}
        return trained, {name: array for name, array in values.items() if name not in trained}

    def _forward(self, trained: Variables, rest: Variables, arrays: list[Any]) -> Any:
        recorder, given = Recorder(silent=True), iter(arrays)
        inputs = map_leaves(lambda _: next(given), self.side.inputs, is_array)
        self._template = self.side.applied(rest | trained, inputs, recorder)
        found = list(leaves(self._template, is_array))
        return [array for array in found if is_float(array)], (found, recorder.state)

    def _backward(self, trained: Variables, rest: Variables, arrays: list[Any], cotangents: list[Any]) -> Any:
        _, pull_back, (found, state) = jax.vjp(lambda t: self._forward(t, rest, arrays), trained, has_aux=True)
        return found, state, pull_back(cotangents)[0]

    def _loss_of(self, floats: list[Any], others: list[Any], targets: Any) -> Any:
        parts = {True: iter(floats), False: iter(others)}
        output = map_leaves(lambda array: next(parts[is_float(array)]), self._template, is_array)
        return self._loss(output, targets)

    def _whole_step(self, trained: Variables, rest: Variables, state: Any, arrays: list[Any], targets: Any) -> Any:
        def loss(trained: Variables) -> Any:
            floats, (found, changed) = self._forward(trained, rest, arrays)
            return self._loss_of(floats, [array for array in found if not is_float(array)], targets), changed

        gradients, changed = jax.grad(loss, has_aux=True)(trained)
        updates, state = self._optimizer.update(gradients, state, trained)
        return optax_library.apply_updates(trained, updates), rest | changed, state

    def arrays(self, inputs: Any, dtype: str) -> list[Any]:
        """Returns the arrays of the JAX model's inputs for inputs of the torch model."""
        theirs = [np.asarray(array) for array in leaves(self._pair.torch.inputs, has_shape)]
        ours = [np.asarray(array) for array in leaves(self.side.inputs, is_array)]
        found = [np.asarray(array) for array in leaves(self._convert(inputs) if self._convert else inputs, has_shape)]
        if len(found) != len(ours):
            raise UserError(f"a batch has {len(found)} input arrays, the JAX model {len(ours)}: give jax_inputs=")
        if self._convert is None:
            found = [_laid_out(array, *sides) for array, *sides in zip(found, theirs, ours, strict=True)]
        return [cast(array.astype(like.dtype), dtype) for array, like in zip(found, ours, strict=True)]

    def run(
        self, values: Variables, arrays: list[Any], computed: _Pass, dtype: str
    ) -> tuple[list[Array], dict[str, Array], dict[str, Array], dict[int, Layout]]:
        """Runs the model forward, and backward from torch's gradients of its outputs.

        Returns the outputs, the new state, the gradients, and the layouts of torch's outputs.
        """
        trained, rest = self.split({name: cast(array, dtype) for name, array in values.items()})
        key = tuple(output.shape for output in computed.outputs)
        if key not in self._layouts:
            floats, (shapes, _) = jax.eval_shape(self._forward, trained, rest, arrays)
            self._shapes[key] = [(b, shape.shape) for b, shape in enumerate(shapes) if is_float(shape)]
            ends = [jnp.zeros(shape.shape, shape.dtype) for shape in floats]
            found = [np.asarray(array) for array in self._run(trained, rest, arrays, ends)[0]]
            layouts = {b: nearest(computed.outputs[a], found[b]) for a, b in self._pair.outputs}
            self._layouts[key] = {b: layout for b, layout in layouts.items() if layout is not None}
        layouts_now = self._layouts[key]
        theirs = {b: layouts_now[b](computed.cotangents[a]) for a, b in self._pair.outputs if b in layouts_now}
        cotangents = [cast(theirs.get(b, np.zeros(shape)), dtype) for b, shape in self._shapes[key]]
        outputs, state, gradients = self._run(trained, rest, arrays, cotangents)
        return [np.asarray(o) for o in outputs], _numpy(state), _numpy(gradients), layouts_now

    def loss(self, outputs: list[Array], targets: Any) -> tuple[float, list[Array | None]]:
        """Returns the loss at these outputs, and its gradient at each, None where they are integers."""
        arrays = [cast(array, "float64") for array in outputs]
        floats, others = [a for a in arrays if is_float(a)], [a for a in arrays if not is_float(a)]
        value, gradients = self._loss_at(floats, others, self.targets(targets))
        given = iter(gradients)
        return float(value), [np.asarray(next(given)) if is_float(array) else None for array in arrays]

    @staticmethod
    def targets(targets: Any) -> Any:
        return map_leaves(lambda array: cast(np.asarray(array), "float64"), targets, has_shape)

    def update(self, gradients: Variables, values: Variables) -> tuple[dict[str, Array], dict[str, Array]]:
        """Updates torch's parameters with torch's gradients. Returns the update in float64 and in float32."""
        with self.precision("float32"):
            rounded = jax.tree.map(lambda x: cast(x, "float32"), (gradients, self.optimizer_state, values))
            low, _ = self._update(*rounded)
        updates, self.optimizer_state = self._update(gradients, self.optimizer_state, values)
        return _numpy(updates), _numpy(low)

    def train_alone(self, arrays: list[Any], targets: Any) -> Variables:
        """Takes a step from the state that the JAX model itself has come to; returns the new one."""
        trained: Variables
        rest: Variables
        trained, rest, state = self._free_step(*self._own, arrays, self.targets(targets))
        self._own = trained, rest, state
        return rest | trained


class _Compared:
    """The steps so far: what they differ in, and what is needed to say why."""

    def __init__(self, pair: Any, torch_run: _TorchRun, jax_run: _JaxRun, dtype: str) -> None:
        self._pair, self._torch, self._jax, self._dtype = pair, torch_run, jax_run, dtype
        self.result = Training()
        self._weights: list[Weight] = pair.weights
        self._fixed = dict(jax_run.side.variables)
        self._records: list[UpdateRecord] = []
        self._updates: dict[str, Difference] = {}
        self._states: dict[str, StateRecord] = {}
        self._loss: Finding | None = None
        self._drift: dict[str, float] = {}
        self._has_gradient: set[str] = set()
        self._not_compared: set[str] = set()
        self._checked = False
        self._average: dict[str, Array] | None = None
        generator = np.random.default_rng(0)
        sizes = {weight.jax: int(np.prod(jax_run.side.variables[weight.jax].shape)) for weight in self._weights}
        self._samples = {name: generator.permutation(size)[:_SAMPLE] for name, size in sizes.items()}

    def step(self, inputs: Any, targets: Any) -> None:
        with self._jax.precision("float64"):
            arrays = self._jax.arrays(inputs, "float64")
        before = self._torch.state
        computed = self._torch.run(inputs, targets, self._dtype)
        differences = self._model_pass(before, computed, inputs, targets, self._dtype)
        if self._dtype == "float32" and any(d.out for d in differences):
            exact = self._torch.run(inputs, targets, "float64")
            differences = self._model_pass(before, exact, inputs, targets, "float64")
        differences = self._confirm(differences, before, computed, inputs, arrays)
        differences += self._update(before, computed)
        if self._dtype == "float64":
            with self._jax.precision("float64"):
                own, state = self._jax.train_alone(arrays, targets), self._torch.state
                for weight in self._weights:
                    apart = _distance(weight(state), np.asarray(own[weight.jax]))
                    self._drift[weight.jax] = max(self._drift.get(weight.jax, 0.0), apart)
        else:
            self._torch.round(self._dtype)
        self.result.losses.append(computed.loss)
        self.result.steps += 1
        for difference in differences:
            worst = self.result.largest.get(difference.kind)
            if worst is None or difference.relative > worst.relative:
                self.result.largest[difference.kind] = difference
            if difference.out and self.result.first is None:
                self.result.first = difference

    def _values(self, state: Mapping[str, Array]) -> dict[str, Array]:
        return self._fixed | {weight.jax: weight(state) for weight in self._weights}

    def _difference(
        self, kind: Kind, name: str, theirs_name: str, ours: Any, theirs: Any, floor: float = 0.0
    ) -> Difference:
        scale = _largest(theirs)
        allowed = max(ALLOWED_EPS * EPS["float32"] * scale, floor)
        if scale <= floor:
            scale = floor / ROUNDING_FLOOR  # nothing but rounding, of sums of this size
        elif kind == "gradient":
            self._has_gradient.add(name)
        return Difference(self.result.steps, kind, name, theirs_name, _distance(theirs, ours), allowed, scale)

    def _model_pass(
        self, before: Mapping[str, Array], computed: _Pass, inputs: Any, targets: Any, dtype: str
    ) -> list[Difference]:
        """Compares outputs, loss, gradients and running statistics, all from torch's state."""
        values = self._values(before)
        with self._jax.precision(dtype):
            arrays = self._jax.arrays(inputs, dtype)
            outputs, state, gradients, layouts = self._jax.run(values, arrays, computed, dtype)
        found, forced = [], list(outputs)
        for a, b in self._pair.outputs:
            if b in layouts and outputs[b].dtype.kind == "f":
                forced[b] = layouts[b](computed.outputs[a])
                found.append(self._difference("output", f"output {b}", f"output {a}", outputs[b], forced[b]))
        with self._jax.precision("float64"):
            loss, slopes = self._jax.loss(forced, targets)
        found.append(self._difference("loss", "the loss", "the loss", np.array(loss), np.array(computed.loss)))
        for a, b in self._pair.outputs:
            if b in layouts and (ours := slopes[b]) is not None:
                theirs = layouts[b](computed.cotangents[a])
                found.append(self._difference("loss", f"the gradient at output {b}", f"output {a}", ours, theirs))
        if self._loss is None and dtype == "float64" and any(d.out for d in found if d.kind == "loss"):
            sizes = {size for array in leaves((targets, forced), has_shape) for size in (*array.shape, int(array.size))}
            self._loss = explain_loss(loss, computed.loss, sorted(sizes), f"(step {self.result.steps})")
        largest = max(map(_largest, computed.gradients.values()), default=0.0)
        for weight in self._weights:
            theirs_g = weight.gradient(computed.gradients)
            if theirs_g is not None and weight.jax in gradients:
                name = weight.sources[0].name
                found.append(
                    self._difference(
                        "gradient", weight.jax, name, gradients[weight.jax], theirs_g, ROUNDING_FLOOR * largest
                    )
                )
            elif weight.jax in state and weight.sources[0].name in computed.buffers:
                theirs, ours = weight(computed.buffers), state[weight.jax]
                difference = self._difference("state", weight.jax, weight.sources[0].name, ours, theirs)
                found.append(difference)
                if difference.out and dtype == "float64" and weight.jax not in self._states:
                    module = self._torch.model.get_submodule(weight.sources[0].name.rpartition(".")[0])
                    momentum = getattr(module, "momentum", None)
                    self._states[weight.jax] = StateRecord(weight.jax, momentum, values[weight.jax], ours, theirs)
            elif (source := weight.sources[0].name) in computed.buffers and not np.array_equal(
                before[source], computed.buffers[source]
            ):
                self._not_compared.add(weight.jax)
        self._gradients = gradients
        return found

    def _confirm(
        self,
        differences: list[Difference],
        before: Mapping[str, Array],
        computed: _Pass,
        inputs: Any,
        arrays: list[Any],
    ) -> list[Difference]:
        """Checks every place once something is out; where the check finds no place out, neither is the step."""
        out = [d for d in differences if d.out and d.kind in ("output", "gradient")]
        if not out or (self._checked and self.result.findings):
            return differences
        given = iter(arrays)
        side = dataclasses.replace(
            self._jax.side,
            variables=self._values(before),
            inputs=map_leaves(lambda _: np.asarray(next(given)), self._jax.side.inputs, is_array),
        )
        model = self._torch.model
        report = self._pair.at(self._pair.torch.at(model, inputs), side, computed.cotangents).check()
        self._checked = True
        self.result.findings += report.findings
        if report.findings:
            return differences
        return [dataclasses.replace(d, allowed=np.inf) if d in out else d for d in differences]

    def _update(self, before: Mapping[str, Array], computed: _Pass) -> list[Difference]:
        """Compares what the two optimizers add to torch's parameters, given torch's gradients."""
        entering, settings, average = self._torch.update(computed)
        after = self._torch.state
        theirs_all = computed.gradients | {
            name: np.zeros_like(array)
            for name, array in before.items()
            if name in self._pair.torch.trainable and name not in computed.gradients
        }
        given = {weight.jax: weight.gradient(theirs_all) for weight in self._weights}
        fed = {name: given.get(name) for name in self._jax.side.trainable}
        values = self._values(before)
        with self._jax.precision("float64"):
            gradients = {n: cast(self._gradients[n] if g is None else g, "float64") for n, g in fed.items()}
            updates, low = self._jax.update(
                gradients, self._jax.split({n: cast(a, "float64") for n, a in values.items()})[0]
            )
        found: list[Difference] = []
        total = float(np.sqrt(sum(float((g**2).sum()) for g in map(np.float64, computed.gradients.values()))))
        record = UpdateRecord(total)
        for weight in self._weights:
            name, source = weight.jax, weight.sources[0].name
            if name not in updates:
                continue
            ours, theirs = updates[name], weight(after) - weight(before)
            scale = _largest(theirs)
            largest, parameter = max(scale, _largest(ours)), _largest(weight(before))
            rounded = _distance(ours, low[name])
            loss = max(rounded if np.isfinite(rounded) else 0.0, EPS["float32"] * largest)
            distance = _distance(ours, theirs)
            exact = ALLOWED_LOSS * EPS["float64"] * (1e2 * largest + parameter)
            if scale <= exact:
                scale = max(scale, parameter)  # nothing but rounding, of a parameter of this size
            allowed = max(ALLOWED_LOSS * loss, exact)
            difference = Difference(self.result.steps, "update", name, source, distance, allowed, scale)
            found.append(difference)
            if distance > exact and (name not in self._updates or (difference.out and not self._updates[name].out)):
                self._updates[name] = difference
            chosen = self._samples[name]
            raw = given[name]
            reached = weight.gradient(entering)
            raw = np.zeros(ours.shape) if raw is None else raw
            record.add(
                name, source, settings.get(source), exact, weight.added,
                [
                    array.reshape(-1)[chosen]
                    for array in (weight(before), raw, raw if reached is None else reached, theirs, ours)
                ],
                float(np.sqrt((np.float64(raw) ** 2).sum())),
            )  # fmt: skip
        self._records.append(record)
        return found + self._averages(before, after, average)

    def _averages(
        self, before: Mapping[str, Array], after: Mapping[str, Array], average: Mapping[str, Array] | None
    ) -> list[Difference]:
        if average is None or self._jax.average is None:
            return []
        weights = [w for w in self._weights if all(source.name in average for source in w.sources)]
        previous = self._average or {w.jax: w(before) for w in weights}
        self._average = {w.jax: w(average) for w in weights}
        with self._jax.precision("float64"):
            ours = self._jax.average(
                {n: jnp.asarray(a) for n, a in previous.items()}, {w.jax: jnp.asarray(w(after)) for w in weights}
            )
        return [
            self._difference("average", w.jax, w.sources[0].name, np.asarray(ours[w.jax]), self._average[w.jax])
            for w in weights
        ]

    def explain(self, numbers: Mapping[str, Sequence[float]]) -> None:
        """Says why the losses, running statistics and updates differ."""
        frozen = {w.jax for w in self._weights if not any(s.name in self._pair.torch.trainable for s in w.sources)}
        rounding = self._jax.side.trainable - self._has_gradient - frozen
        if self._drift:
            self.result.drift = max((d for name, d in self._drift.items() if name not in rounding), default=0.0)
        for name in sorted(rounding & self._drift.keys()):
            if drift := self._drift[name]:
                text = f"{name}: its gradient is 0 but for rounding. An optimizer such as Adam makes steps of that"
                self.result.notes.append(f"{text}, and it drifts by up to {drift:.1e}.")
        if self._not_compared:
            text = f"running statistics of {self._jax.side.framework} are not compared"
            self.result.notes.append(f"{text}: {', '.join(sorted(self._not_compared))}")
        self.result.findings += [self._loss] if self._loss else []
        self.result.findings += explain_state(list(self._states.values()))
        out = {name for name, difference in self._updates.items() if difference.out}
        found, unexplained = explain_updates(self._records, sorted(self._updates), numbers)
        for finding, names in found:
            worst = max((self._updates[name] for name in names), key=lambda d: d.relative)
            harmless = worst.relative <= ALLOWED_EPS * EPS["float32"]
            size = f"{worst.relative:.1e} of the update of {worst.name} in step {worst.step}"
            where = f"({len(names)} parameter{'s' * (len(names) > 1)}, {size})"
            if harmless and not out & set(names):
                self.result.notes.append(f"{finding.name}: {finding.says} Less than float32's rounding. {where}")
            else:
                self.result.findings.append(dataclasses.replace(finding, says=f"{finding.says} {where}"))
                if self.result.first is None:
                    self.result.first = min((self._updates[name] for name in names), key=lambda d: d.step)
        for name in unexplained:
            text = f"{self._updates[name]}: no known cause."
            if name in out:
                self.result.findings.append(Finding("unknown", text, "", ()))
            else:
                self.result.notes.append(f"{text} Less than float32's rounding.")


_SAMPLE = 64
"""Elements of each parameter whose updates are kept to find causes."""


def _numpy(values: Mapping[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(array) for name, array in values.items()}


def _distance(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.where(a == b, 0.0, np.abs(np.float64(a) - np.float64(b)))  # equal infinities are 0 apart
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _largest(array: Array) -> float:
    """Returns the largest finite absolute value."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _laid_out(array: Array, theirs: Array, ours: Array) -> Array:
    """Returns an input of the torch model in the axes of the JAX model's, as those that the pair was made with tell."""
    if theirs.shape == ours.shape and array.ndim == theirs.ndim:
        layout = nearest(theirs, ours) if theirs.dtype.kind == "f" else None
        return array if layout is None or layout.axes is None else array.transpose(layout.axes)
    layout = nearest(theirs, ours)
    if layout is None or layout.axes is None or layout.split is not None or array.ndim != theirs.ndim:
        raise UserError(f"an input has shape {ours.shape} in JAX and {theirs.shape} in torch: give jax_inputs=")
    return array.transpose(layout.axes)
