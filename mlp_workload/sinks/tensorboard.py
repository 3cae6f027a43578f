"""Events as TensorBoard scalars."""

from pathlib import Path

from tensorboardX import SummaryWriter

from mlp_workload.events import Evaluated, Event, TrainLosses


class TensorBoard:
    """`train/loss` of each step, `test/loss` and `test/accuracy` of each evaluation, by step."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def emit(self, event: Event) -> None:
        match event:
            case TrainLosses():
                for step, loss in enumerate(event.losses.tolist(), start=event.first_step):
                    self._writer.add_scalar("train/loss", loss, step)
            case Evaluated():
                self._writer.add_scalar("test/loss", event.test_loss, event.step)
                self._writer.add_scalar("test/accuracy", event.test_accuracy, event.step)
                self._writer.flush()

    def close(self) -> None:
        self._writer.close()
