"""The same training in other forms that PyTorch's users choose for speed. `Trainer` itself is the eager one.

Each trains as `Trainer` does, step by step; `mlp_compare.bench` holds them to it before it times them.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mlp_workload.batches import part
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.interface import Losses
from mlp_workload.weights import Parameters
from reference_torch.loss import IGNORED
from reference_torch.optimizer import sgd
from reference_torch.step import normalize
from reference_torch.trainer import Trainer, gather
from reference_torch.tutorial_loop import Images


class Article(Trainer):
    """As the tutorial wrote it: a `DataLoader` that transforms one image at a time, and a look at every loss."""

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        super().__init__(config, dataset, initial)
        self._each_image = Images(config, dataset.train)

    def train_steps(self, order: npt.NDArray[np.int32], first: int = 0, last: int | None = None) -> Losses:
        losses, size = [], self._config.batch_size
        sampler = part(order, size, first, last).tolist()
        for images, labels in DataLoader(self._each_image, size, sampler=sampler):
            x, y = images.flatten(start_dim=1).to(self._labels.device), labels.to(self._labels.device)
            loss = F.cross_entropy(self._model(x), y, ignore_index=IGNORED)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            losses.append(loss.item())
        return np.array(losses, self._config.dtype)


class Fused(Trainer):
    """The update in one kernel."""

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        super().__init__(config, dataset, initial)
        rates = config.learning_rate, config.momentum, config.nesterov, config.weight_decay
        self._optimizer = sgd(self._model.parameters(), *rates, fused=True)


class Compiled(Trainer):
    """Forward pass and loss by `torch.compile`, and with them the backward pass. Needs a C++ compiler on a CPU."""

    mode = "default"

    def compile(self) -> None:
        """Also compiles for the smaller last batch, by a pass over each that changes nothing."""
        self._compiled_loss = torch.compile(self._loss, mode=self.mode)
        examples, size = len(self._labels), self._config.batch_size
        for n in {size, examples % size or size}:
            self._compiled_loss(torch.arange(n, device=self._labels.device)).backward()

    def _loss(self, batch: torch.Tensor) -> torch.Tensor:
        logits = self._model(normalize(self._config, gather(self._images, batch)))
        labels, smoothing = gather(self._labels, batch), self._config.label_smoothing
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, ignore_index=IGNORED)

    def _step(self, batch: torch.Tensor) -> torch.Tensor:
        return self._update(self._compiled_loss(batch))


class CompiledAutotuned(Compiled):
    """The same with kernels chosen by trial."""

    mode = "max-autotune-no-cudagraphs"


class ByHand(Trainer):
    """The backward pass written out, the update inside the weight gradient's product (`addmm`), nothing in between.

    For plain SGD without label smoothing.
    """

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        super().__init__(config, dataset, initial)
        parameters = [parameter.detach() for parameter in self._model.parameters()]
        self._weights, self._biases = parameters[::2], parameters[1::2]
        self._activations: Sequence[str] = [config.activation] * (len(self._weights) - 1) + [config.logits_activation]

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
            gradient = _through(activation, gradient, outputs[layer + 1])
            below = gradient @ weight if layer else gradient
            weight.addmm_(gradient.t(), outputs[layer], alpha=-rate)
            bias.sub_(gradient.sum(dim=0), alpha=rate)
            gradient = below
        return loss


def _activate(activation: str, x: torch.Tensor) -> torch.Tensor:
    match activation:
        case "relu":
            return x.relu_()
        case "leaky_relu":
            return F.leaky_relu_(x)
        case _:
            return x


def _through(activation: str, gradient: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The gradient before an activation; the sign of its output is that of its input, 0 for ReLU where that was not
    above 0."""
    match activation:
        case "relu":
            before: torch.Tensor = torch.ops.aten.threshold_backward(gradient, output, 0)
        case "leaky_relu":
            before = torch.ops.aten.leaky_relu_backward(gradient, output, 0.01, True)
        case _:
            before = gradient
    return before


class StepGraph(ByHand):
    """GPU: one step of `ByHand` recorded as a CUDA graph and played for each batch."""

    steps = 1

    def compile(self) -> None:
        """Records, after the three warm-up runs that CUDA graphs ask for, and puts the parameters back."""
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
        """Batches that do not fill a graph, such as the smaller last one, are trained on step by step."""
        order = part(order, self._config.batch_size, first, last)
        indices, played = self._indices(order), []
        whole = len(order) // self._batches.numel() * self._batches.numel()
        for batches in indices[:whole].view(-1, *self._batches.shape):
            self._batches.copy_(batches)
            self._graph.replay()
            played.append(self._losses.clone())
        rest = [self._step(batch)[None] for batch in indices[whole:].split(self._config.batch_size) if len(batch)]
        return torch.cat(played + rest).cpu().numpy()


class EpochGraph(StepGraph):
    """GPU: all full batches of an epoch as one CUDA graph, the peer of JAX's scanned epoch."""

    def compile(self) -> None:
        self.steps = len(self._labels) // self._config.batch_size
        super().compile()
