"""Other forms of the training that PyTorch's users choose, as `mlp_compare.bench` times them.

`Trainer` itself is eager. Each form takes the same steps as `Trainer`; the benchmark checks this before it times them.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mlp_workload.batches import part
from mlp_workload.config import LEAKY_RELU_SLOPE, Config
from mlp_workload.data import Dataset
from mlp_workload.environment.description import usable_cores
from mlp_workload.interface import Losses
from mlp_workload.weights import Parameters
from reference_torch.loss import IGNORED
from reference_torch.model import MLP
from reference_torch.optimizer import sgd
from reference_torch.step import normalize
from reference_torch.trainer import Trainer, gather
from reference_torch.tutorial_loop import Images
from reference_torch.weights import named_parameters


class TutorialLoop(Trainer):
    """The tutorial's loop: a `DataLoader` transforms one image at a time, and every loss is read."""

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        super().__init__(config, dataset, initial)
        self._each_image = Images(config, dataset.train)

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        losses, size = [], self._config.batch_size
        sampler = part(order, size, first, last).tolist()
        for images, labels in DataLoader(self._each_image, size, sampler=sampler):
            x, y = images.flatten(start_dim=1).to(self._labels.device), labels.to(self._labels.device)
            losses.append(self._update(F.cross_entropy(self._model(x), y, ignore_index=IGNORED)).item())
        return np.array(losses, self._config.dtype)


class Fused(Trainer):
    """The update as one fused kernel."""

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        super().__init__(config, dataset, initial)
        rates = config.learning_rate, config.momentum, config.nesterov, config.weight_decay
        self._optimizer = sgd(self._model.parameters(), *rates, fused=True)


class Compiled(Trainer):
    """Forward pass, loss and their backward pass by `torch.compile`, which needs a C++ compiler on a CPU."""

    mode = "default"

    def compile(self) -> None:
        """Compiles for full batches and for a smaller last one, by a pass over each that changes nothing."""
        self._compiled_loss = torch.compile(self._loss, mode=self.mode)
        examples, size = len(self._labels), self._config.batch_size
        for n in {size, examples % size or size}:
            self._compiled_loss(torch.arange(n, device=self._labels.device)).backward()

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        images, labels = self._select(batch)
        logits, smoothing = self._model(normalize(self._config, images)), self._config.label_smoothing
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, ignore_index=IGNORED)

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        return self._update(self._compiled_loss(batch))


class CompiledAutotuned(Compiled):
    """`torch.compile` with kernels chosen by trial."""

    mode = "max-autotune-no-cudagraphs"


class ByHand(Trainer):
    """The backward pass written out, with the update inside the weight gradient's product (`addmm`).

    Only for plain SGD without label smoothing.
    """

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        super().__init__(config, dataset, initial)
        parameters = [parameter.detach() for parameter in self._model.parameters()]
        self._weights, self._biases = parameters[::2], parameters[1::2]
        self._activations = config.activations(len(self._weights))

    @torch.no_grad()
    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        layers = list(zip(self._weights, self._biases, self._activations, strict=True))
        y = gather(self._labels, batch)[:, None]
        outputs = [normalize(self._config, gather(self._images, batch))]
        for weight, bias, activation in layers:
            outputs.append(_activate(activation, torch.addmm(bias, outputs[-1], weight.t())))
        log_probabilities = F.log_softmax(outputs[-1], dim=1)
        loss = -log_probabilities.gather(1, y).mean()
        gradient = log_probabilities.exp_()
        gradient.scatter_add_(1, y, torch.full_like(y, -1, dtype=gradient.dtype)).div_(len(batch))
        rate = self._config.learning_rate
        for layer, (weight, bias, activation) in reversed(list(enumerate(layers))):
            gradient = _activation_backward(activation, gradient, outputs[layer + 1])
            below = gradient @ weight if layer else gradient
            weight.addmm_(gradient.t(), outputs[layer], alpha=-rate)
            bias.sub_(gradient.sum(dim=0), alpha=rate)
            gradient = below
        return loss


def _activate(activation: str, x: torch.Tensor) -> torch.Tensor:
    if activation == "none":
        return x
    return x.relu_() if activation == "relu" else F.leaky_relu_(x, LEAKY_RELU_SLOPE)


def _activation_backward(activation: str, gradient: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of an activation's input, from that of its `output`, which has the input's sign or is 0."""
    if activation == "relu":
        gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
    elif activation == "leaky_relu":
        gradient = torch.ops.aten.leaky_relu_backward(gradient, output, LEAKY_RELU_SLOPE, True)
    return gradient


class StepGraph(ByHand):
    """One step of `ByHand` as a CUDA graph, replayed for each batch. Needs a GPU."""

    steps = 1

    def compile(self) -> None:
        """Records the graph after the three warm-up runs that CUDA graphs need, and restores the parameters."""
        size, device = self._config.batch_size, self._labels.device
        self._batches = torch.zeros(self.steps, size, dtype=torch.int64, device=device)
        self._losses = torch.zeros(self.steps, dtype=self._weights[0].dtype, device=device)
        kept = [parameter.clone() for parameter in (*self._weights, *self._biases)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._train_recorded()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._train_recorded()
        for parameter, before in zip((*self._weights, *self._biases), kept, strict=True):
            parameter.copy_(before)

    def _train_recorded(self) -> None:
        for number in range(self.steps):
            self._losses[number] = self._step(self._batches[number])

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        """Trains on a part of an epoch. Batches that do not fill a graph take single steps."""
        order = part(order, self._config.batch_size, first, last)
        indices, replayed = self._indices(order), []
        whole = len(order) // self._batches.numel() * self._batches.numel()
        for batches in indices[:whole].view(-1, *self._batches.shape):
            self._batches.copy_(batches)
            self._graph.replay()
            replayed.append(self._losses.clone())
        rest = [self._step(batch)[None] for batch in indices[whole:].split(self._config.batch_size) if len(batch)]
        return torch.cat(replayed + rest).cpu().numpy()


class EpochGraph(StepGraph):
    """All full batches of an epoch as one CUDA graph, like the epoch in JAX. Needs a GPU."""

    def compile(self) -> None:
        self.steps = len(self._labels) // self._config.batch_size
        super().compile()


class SeedsInTurn:
    """Several models by `ByHand`, one after another.

    All start from the weights `initial`. `train_steps` trains each one over its row of `orders` (models, n);
    `parameters` returns those of the first model. The other `Seeds...` classes do the same.
    """

    packages = Trainer.packages

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
        self._trainers = [ByHand(config, dataset, initial) for _ in range(models)]
        self.device = self._trainers[0].device

    def compile(self) -> None:
        """Does nothing: eager torch compiles nothing."""

    def train_steps(self, orders: npt.NDArray[np.int32]) -> Losses:
        return np.stack([trainer.train_steps(order) for trainer, order in zip(self._trainers, orders, strict=True)])

    def parameters(self) -> Parameters:
        return self._trainers[0].parameters()


class SeedsVmapped(Trainer):
    """Several models with stacked parameters, by `torch.func.vmap`, for plain SGD."""

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
        super().__init__(config, dataset, initial)
        model = self._model
        assert isinstance(model, MLP), "torch.func needs an nn.Module, which preset relu does not have"
        self._stacked = {
            name: parameter.detach().expand(models, *parameter.shape).clone()
            for name, parameter in model.named_parameters()
        }

        def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(torch.func.functional_call(model, parameters, (x,)), y, ignore_index=IGNORED)

        self._gradients_and_losses = torch.func.vmap(torch.func.grad_and_value(loss))

    @torch.no_grad()
    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        batches = self._indices(order).split(self._config.batch_size, dim=1)[first:last]
        losses = [self._step(batch) for batch in batches]
        return torch.stack(losses, dim=1).cpu().numpy()

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        images, labels = gather(self._images, batch.flatten()), gather(self._labels, batch.flatten())
        x = normalize(self._config, images).view(*batch.shape, -1)
        gradients, losses = self._gradients_and_losses(self._stacked, x, labels.view(batch.shape))
        for name, parameters in self._stacked.items():
            parameters.sub_(gradients[name], alpha=self._config.learning_rate)
        return torch.as_tensor(losses)

    def parameters(self) -> Parameters:
        stacked = zip(named_parameters(self._model), self._stacked.values(), strict=True)
        return {name: array[0].cpu().numpy() for name, array in stacked}


class SeedsInProcesses:
    """Several models in one process per core; each process has one thread and trains its share one after another."""

    packages = Trainer.packages
    device = "cpu"

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
        shares = np.array_split(np.arange(models), min(usable_cores(), models))
        self._processes = [
            ProcessPoolExecutor(
                1, get_context("spawn"), initializer=_create_models, initargs=(config, dataset, initial, len(share))
            )
            for share in shares
        ]
        self._ends = np.cumsum([len(share) for share in shares])[:-1]

    def compile(self) -> None:
        """Waits until every process is ready."""
        for future in [process.submit(_call, "compile") for process in self._processes]:
            future.result()

    def train_steps(self, orders: npt.NDArray[np.int32]) -> Losses:
        shares = zip(self._processes, np.split(orders, self._ends), strict=True)
        futures = [process.submit(_call, "train_steps", share) for process, share in shares]
        return np.concatenate([future.result() for future in futures])

    def parameters(self) -> Parameters:
        return dict(self._processes[0].submit(_call, "parameters").result())


_models: SeedsInTurn
"""The models of this process, if `SeedsInProcesses` started it."""


def _create_models(config: Config, dataset: Dataset, initial: Parameters, models: int) -> None:
    global _models
    torch.set_num_threads(1)
    _models = SeedsInTurn(config, dataset, initial, models)


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_models, method)(*arguments)
