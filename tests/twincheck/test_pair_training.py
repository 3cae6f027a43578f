"""Two models trained side by side: those that train alike show no mismatch, and planted faults are named."""

import functools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tolerances
import torch
from flax import nnx
from pairs_to_train import JaxConv, JaxMlp, JaxVit, TorchConv, TorchMlp, TorchVit
from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import twincheck as tc
from mlp_workload.errors import UserError
from twincheck.optimizer_causes import numbers_in

STEPS = 12

LONG = pytest.mark.long("compiles a step for each optimizer")


def jax_loss(output: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(output, labels).mean()


def batches(*shape: int) -> list[tuple[Any, Any]]:
    generator = np.random.default_rng(0)
    return [(generator.standard_normal(shape).astype(np.float32), generator.integers(0, 3, shape[0])) for _ in range(5)]


VECTORS, IMAGES = batches(6, 4), batches(4, 1, 4, 4)


@cache
def mlp_pair() -> Any:
    torch.manual_seed(0)
    return tc.pair(tc.torch(TorchMlp(), VECTORS[0][0]), tc.nnx(JaxMlp(), VECTORS[0][0]))


def image_pair(torch_model: nn.Module, jax_model: nnx.Module) -> Any:
    x = IMAGES[0][0]
    return tc.pair(tc.torch(torch_model, x, train=True), tc.nnx(jax_model, x.transpose(0, 2, 3, 1), train=True))


def train(torch_optimizer: Any, transformation: Any, steps: int = STEPS, **options: Any) -> Any:
    """Trains the MLP pair in float32: updates are compared in float64 all the same."""
    options = {"torch_loss": nn.functional.cross_entropy, "jax_loss": jax_loss, "dtype": "float32", **options}
    return tc.train(mlp_pair(), VECTORS, steps, torch_optimizer=torch_optimizer, optax=transformation, **options)


def use(optimizer: Any, **settings: Any) -> Callable[[nn.Module], Any]:
    return lambda model: optimizer(model.parameters(), **settings)


def scheduled(scheduler: Any, optimizer: Any = optim.AdamW, **settings: Any) -> Callable[[nn.Module], Any]:
    def make(model: nn.Module) -> Any:
        stepped = optimizer(model.parameters(), lr=1e-2)
        schedule = scheduler(stepped, **settings)

        def step() -> None:
            stepped.step()
            schedule.step()

        return step

    return make


def clipped(norm: float, *, each: bool = False) -> Callable[[nn.Module], Any]:
    def make(model: nn.Module) -> Any:
        optimizer = optim.SGD(model.parameters(), lr=1e-2)

        def step() -> None:
            for parameters in [[p] for p in model.parameters()] if each else [list(model.parameters())]:
                nn.utils.clip_grad_norm_(parameters, norm)
            optimizer.step()

        return step

    return make


def clipped_by_value(value: float) -> Callable[[nn.Module], Any]:
    def make(model: nn.Module) -> Any:
        optimizer = optim.SGD(model.parameters(), lr=1e-2)

        def step() -> None:
            nn.utils.clip_grad_value_(model.parameters(), value)
            optimizer.step()

        return step

    return make


def grouped(model: nn.Module) -> Any:
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == large] for large in (True, False))
    return optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1e-2)


def torch_rmsprop(**settings: Any) -> Any:
    return optax.rmsprop(1e-3, **{"decay": 0.99, "eps_in_sqrt": False, **settings})


def matrices_alone(parameters: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, parameters)


cosine = optax.cosine_decay_schedule(1e-2, 20)

SAME = {
    "adam": (use(optim.Adam, lr=1e-3), optax.adam(1e-3)),
    "adam-coupled": (
        use(optim.Adam, lr=1e-3, weight_decay=0.1), optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-3)),
    ),
    "nesterov": (use(optim.SGD, lr=1e-2, momentum=0.9, nesterov=True), optax.sgd(1e-2, 0.9, nesterov=True)),
    "rmsprop": (use(optim.RMSprop, lr=1e-3), torch_rmsprop()),
    "clip": (clipped(100.0), optax.chain(optax.clip_by_global_norm(100.0), optax.sgd(1e-2))),
    "schedule": (scheduled(CosineAnnealingLR, T_max=20), optax.adamw(cosine, weight_decay=1e-2)),
    "rmsprop-schedule": (
        scheduled(CosineAnnealingLR, partial(optim.RMSprop, momentum=0.9), T_max=20),
        optax.chain(
            optax.scale_by_rms(0.99, eps_in_sqrt=False), optax.trace(0.9), optax.scale_by_learning_rate(cosine)
        ),
    ),
    "groups": (grouped, optax.adamw(1e-2, weight_decay=0.1, mask=matrices_alone)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
@LONG
def test_equal_optimizers_show_no_mismatch(name: str) -> None:
    result = train(*SAME[name])
    assert result.same, str(result)
    assert not result.notes, str(result)
    assert result.steps == STEPS


FAULTS = {
    "adamw-defaults": (use(optim.AdamW, lr=1e-3), optax.adamw(1e-3), {"weight-decay"}),
    "no-decay": (use(optim.AdamW, lr=1e-3), optax.adam(1e-3), {"weight-decay"}),
    "coupled": (
        use(optim.Adam, lr=1e-3, weight_decay=0.1), optax.adamw(1e-3, weight_decay=0.1), {"coupled-decay"},
    ),
    "no-mask": (grouped, optax.adamw(1e-2, weight_decay=0.1), {"weight-decay"}),
    "epsilon": (use(optim.Adam, lr=1e-3), optax.adam(1e-3, eps=1e-3), {"epsilon"}),
    "epsilon-in-root": (use(optim.Adam, lr=1e-3), optax.adam(1e-3, eps_root=1e-4), {"epsilon-in-root"}),
    "betas": (use(optim.Adam, lr=1e-3), optax.adam(1e-3, b1=0.85), {"betas"}),
    "rmsprop-defaults": (use(optim.RMSprop, lr=1e-3), optax.rmsprop(1e-3), {"epsilon-in-root", "rmsprop-decay"}),
    "rmsprop-start": (use(optim.RMSprop, lr=1e-3), torch_rmsprop(initial_scale=1.0), {"initial-accumulator"}),
    "rmsprop-schedule": (
        scheduled(CosineAnnealingLR, partial(optim.RMSprop, momentum=0.9), T_max=20),
        optax.rmsprop(cosine, 0.99, eps_in_sqrt=False, momentum=0.9), {"momentum-order"},
    ),
    "adagrad": (use(optim.Adagrad, lr=1e-2), optax.adagrad(1e-2, eps=1e-10), {"initial-accumulator"}),
    "dampening": (use(optim.SGD, lr=1e-2, momentum=0.9, dampening=0.5), optax.sgd(1e-2, 0.9), {"dampening"}),
    "nesterov": (use(optim.SGD, lr=1e-2, momentum=0.9), optax.sgd(1e-2, 0.9, nesterov=True), {"nesterov"}),
    "nadam": (use(optim.NAdam, lr=1e-3), optax.nadam(1e-3), {"nadam-schedule"}),
    "sign": (use(optim.SGD, lr=1e-2), optax.scale(1e-2), {"sign"}),
    "rate": (use(optim.Adam, lr=1e-3), optax.adam(3e-3), {"learning-rate"}),
    "rate-and-betas": (use(optim.Adam, lr=1e-3), optax.adam(3e-3, b2=0.9), {"learning-rate", "betas"}),
    "schedule-shift": (
        scheduled(CosineAnnealingLR, T_max=20), optax.adamw(lambda count: cosine(count + 1), weight_decay=1e-2),
        {"schedule-shift"},
    ),
    "one-cycle": (
        scheduled(OneCycleLR, max_lr=1e-2, total_steps=20),
        optax.adamw(optax.cosine_onecycle_schedule(20, 1e-2), weight_decay=1e-2), {"one-cycle", "schedule"},
    ),
    "frozen": (lambda model: optim.SGD(model.last.parameters(), lr=1e-2), optax.sgd(1e-2), {"frozen"}),
    "no-clip": (clipped(0.3), optax.sgd(1e-2), {"clip"}),
    "clip-size": (clipped(0.3), optax.chain(optax.clip_by_global_norm(0.2), optax.sgd(1e-2)), {"clip"}),
    "amsgrad": (use(optim.Adam, lr=1e-3, amsgrad=True), optax.amsgrad(1e-3), {"amsgrad"}),
    "no-amsgrad": (use(optim.AdamW, lr=1e-3, amsgrad=True), optax.adamw(1e-3, weight_decay=1e-2), {"amsgrad"}),
    "amsgrad-alone": (use(optim.Adam, lr=1e-3), optax.amsgrad(1e-3), {"amsgrad"}),
    "no-nadam": (use(optim.NAdam, lr=1e-3), optax.adam(1e-3), {"nesterov"}),
    "clip-each": (clipped(0.3, each=True), optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(1e-2)), {"clip-each"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
@LONG
def test_a_fault_of_the_optimizer_is_named(name: str) -> None:
    torch_optimizer, transformation, causes = FAULTS[name]
    result = train(torch_optimizer, transformation)
    assert {finding.name for finding in result.findings} == causes, str(result)
    assert result.first is not None
    assert result.first.kind == "update"


CLIPS = {
    "value-alone": (
        use(optim.SGD, lr=1e-2), optax.clip(0.03), "torch doesn't clip the gradients, optax each element at 0.03.",
        "take out optax.clip(0.03).",
    ),
    "norm-alone": (
        use(optim.SGD, lr=1e-2), optax.clip_by_global_norm(0.3),
        "torch doesn't clip the gradients, optax all together to a norm of 0.3.",
        "take out optax.clip_by_global_norm(0.3).",
    ),
    "no-value": (
        clipped_by_value(0.03), optax.identity(), "torch clips each element of the gradients at 0.03, optax doesn't.",
        "optax.chain(optax.clip(0.03), ...).",
    ),
    "one-value-for-another": (
        clipped_by_value(0.03), optax.clip(0.02),
        "torch clips each element of the gradients at 0.03, optax each element at 0.02.",
        "optax.clip(0.03) in place of optax.clip(0.02).",
    ),
    "norm-for-value": (
        clipped_by_value(0.03), optax.clip_by_global_norm(0.3),
        "torch clips each element of the gradients at 0.03, optax all together to a norm of 0.3.",
        "optax.clip(0.03) in place of optax.clip_by_global_norm(0.3).",
    ),
    "value-for-norm": (
        clipped(0.3), optax.clip(0.03),
        "torch clips all gradients together to a norm of 0.3, optax each element at 0.03.",
        "optax.clip_by_global_norm(0.3) in place of optax.clip(0.03).",
    ),
    "no-norm": (
        clipped(0.3), optax.identity(), "torch clips all gradients together to a norm of 0.3, optax doesn't.",
        "optax.chain(optax.clip_by_global_norm(0.3), ...).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
@LONG
def test_both_ways_of_clipping_are_told_apart(name: str) -> None:
    torch_optimizer, clip, says, fix = CLIPS[name]
    (finding,) = train(torch_optimizer, optax.chain(clip, optax.sgd(1e-2))).findings
    assert finding.name == "clip"
    assert finding.says.startswith(says), finding.says
    assert finding.fix == fix


def test_gradients_that_torch_changes_otherwise_are_not_clipped() -> None:
    def make(model: nn.Module) -> Any:
        optimizer = optim.SGD(model.parameters(), lr=1e-2)

        def step() -> None:
            for number, parameter in enumerate(model.parameters()):
                parameter.grad *= 0.5 + 0.1 * number
            optimizer.step()

        return step

    (finding,) = train(make, optax.sgd(1e-2), steps=4).findings
    assert finding.says.startswith("torch changes the gradients before its optimizer gets them, optax doesn't.")


def fixed(finding: Any, **names: Any) -> Any:
    """Returns what the code of a finding's fix gives."""
    code = finding.fix.rpartition("scale_by_amsgrad: ")[2].rstrip(".")
    return eval(code, {"optax": optax, "jnp": jnp, "functools": functools, **names})  # noqa: S307


@LONG
def test_the_fix_of_clipping_each_gradient_by_itself_is_right() -> None:
    torch_optimizer = clipped(0.3, each=True)
    (finding,) = train(torch_optimizer, optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(1e-2))).findings
    clip = eval(finding.fix.partition(" in place of ")[0], {"optax": optax, "jnp": jnp})  # noqa: S307
    result = train(torch_optimizer, optax.chain(clip, optax.sgd(1e-2)))
    assert result.same, str(result)


@pytest.mark.parametrize("by", [1, -1])
@LONG
def test_the_fix_of_a_shifted_schedule_is_right_in_every_step(by: int) -> None:
    torch_optimizer = scheduled(CosineAnnealingLR, T_max=20)
    rates = [float(cosine(max(step + by, 0))) for step in range(20)]

    def schedule(count: Any) -> Any:
        return jnp.asarray(rates)[count]  # at -1 the last one

    (finding,) = train(torch_optimizer, optax.adamw(schedule, weight_decay=1e-2)).findings
    assert finding.name == "schedule-shift"
    result = train(torch_optimizer, optax.adamw(fixed(finding, schedule=schedule), weight_decay=1e-2))
    assert result.same, str(result)


@LONG
def test_the_fix_of_amsgrad_is_torchs_rule() -> None:
    torch_optimizer = use(optim.Adam, lr=1e-3, amsgrad=True)
    (finding,) = train(torch_optimizer, optax.amsgrad(1e-3)).findings
    scaled = fixed(finding, b1=0.9, b2=0.999, eps=1e-8)
    result = train(torch_optimizer, optax.chain(scaled, optax.scale_by_learning_rate(1e-3)))
    assert result.same, str(result)


@LONG
def test_the_epsilon_of_clipping_is_a_note() -> None:
    result = train(clipped(0.5), optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1e-2)))
    assert result.same, str(result)
    assert [note.partition(":")[0] for note in result.notes] == ["clip-epsilon"]


def test_a_sum_in_place_of_a_mean_is_named() -> None:
    result = train(*SAME["adam"], jax_loss=lambda output, labels: len(labels) * jax_loss(output, labels))
    assert [finding.name for finding in result.findings] == ["loss-reduction"], str(result)
    assert result.first.kind == "loss"


@LONG
def test_a_fault_of_the_model_is_found_at_its_place() -> None:
    x = VECTORS[0][0]
    pair = tc.pair(tc.torch(TorchMlp(), x), tc.nnx(JaxMlp(epsilon=1e-3), x))
    result = pair.train(
        VECTORS, 2, torch_optimizer=use(optim.Adam), optax=optax.adam(1e-3),
        torch_loss=nn.functional.cross_entropy, jax_loss=jax_loss,
    )  # fmt: skip
    assert result.first.kind == "output"
    assert result.first.step == 0
    assert "norm" in {place.after for finding in result.findings for place in finding.places}
    assert result.largest["update"].relative < 1e-9, "the optimizer is not at fault"


@pytest.mark.parametrize(("torch_model", "jax_model"), [(TorchMlp, JaxMlp), (TorchVit, JaxVit), (TorchConv, JaxConv)])
@LONG
def test_200_steps_by_itself_stay_with_torch(torch_model: Any, jax_model: Any) -> None:
    torch.manual_seed(0)
    data = VECTORS if torch_model is TorchMlp else IMAGES
    pair = mlp_pair() if torch_model is TorchMlp else image_pair(torch_model(), jax_model())
    result = pair.train(
        data, 200, torch_optimizer=use(optim.AdamW, lr=1e-3), optax=optax.adamw(1e-3, weight_decay=1e-2),
        torch_loss=nn.functional.cross_entropy, jax_loss=jax_loss,
    )  # fmt: skip
    assert result.same, str(result)
    assert result.drift <= tolerances.RUN_FLOAT64.absolute, str(result)
    assert [note.partition(":")[0] for note in result.notes] == ["key.bias"] * (torch_model is TorchVit)
    assert result.losses[-1] < result.losses[0]


def test_float32_is_no_mismatch() -> None:
    torch.manual_seed(0)
    result = image_pair(TorchConv(), JaxConv()).train(
        IMAGES, 60, torch_optimizer=use(optim.Adam, lr=1e-2), optax=optax.adam(1e-2),
        torch_loss=nn.functional.cross_entropy, jax_loss=jax_loss, dtype="float32",
    )  # fmt: skip
    assert result.same, str(result)
    assert result.drift is None


@pytest.mark.parametrize(
    ("jax_model", "causes"),
    [
        (lambda: JaxConv(nnx.BatchNorm), {"batch-norm-running-variance"}),
        (lambda: JaxConv(momentum=0.1), {"batch-norm-momentum"}),
    ],
)
@LONG
def test_running_statistics_are_part_of_the_state(jax_model: Callable[[], nnx.Module], causes: set[str]) -> None:
    result = image_pair(TorchConv(), jax_model()).train(
        IMAGES, 2, torch_optimizer=use(optim.Adam, lr=1e-2), optax=optax.adam(1e-2),
        torch_loss=nn.functional.cross_entropy, jax_loss=jax_loss, dtype="float32",
    )  # fmt: skip
    assert {finding.name for finding in result.findings} == causes, str(result)
    assert result.first.kind == "state"


def test_a_mean_in_place_of_a_sum_is_named() -> None:
    result = train(*SAME["adam"], torch_loss=partial(nn.functional.cross_entropy, reduction="sum"))
    (finding,) = result.findings
    assert (finding.name, finding.fix) == ("loss-reduction-sum", "losses.sum()")
    assert "a mean over 6 in place of a sum" in finding.says


@pytest.mark.parametrize(("kept", "same"), [(0.9, True), (0.8, False)])
@LONG
def test_averages_of_the_parameters(kept: float, same: bool) -> None:
    def make(model: nn.Module) -> Any:
        optimizer = optim.SGD(model.parameters(), lr=1e-2)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        average.update_parameters(model)  # which the first time copies them

        def step() -> nn.Module:
            optimizer.step()
            average.update_parameters(model)
            return average

        return step

    result = train(
        make, optax.sgd(1e-2), jax_average=lambda average, new: optax.incremental_update(new, average, 1 - kept)
    )
    assert result.same == same, str(result)
    assert same or result.first.kind == "average"


@LONG
def test_batches_may_be_smaller_than_the_pairs() -> None:
    short = [(x[:3], labels[:3]) for x, labels in VECTORS[:1]]
    result = tc.train(
        mlp_pair(), VECTORS[:1] + short, 2, torch_optimizer=use(optim.SGD, lr=1e-2), optax=optax.sgd(1e-2),
        torch_loss=nn.functional.cross_entropy, jax_loss=jax_loss, dtype="float32",
    )  # fmt: skip
    assert result.same, str(result)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"torch_optimizer": optim.SGD}, "torch_optimizer takes the model"),
        ({"torch_optimizer": lambda model: 3}, "must return an optimizer or a function"),
        ({"optax": 3}, "must be a GradientTransformation"),
        ({"batches": []}, "no batches"),
        ({"batches": [VECTORS[0][0]]}, "a pair"),
        ({"torch_loss": lambda output, labels: output}, "one number"),
        ({"batches": [((VECTORS[0][0], VECTORS[0][0]), VECTORS[0][1])]}, "jax_inputs"),
    ],
)
@LONG
def test_what_cannot_be_trained_is_said_in_a_line(options: dict[str, Any], line: str) -> None:
    valid = {"torch_optimizer": use(optim.SGD, lr=0.1), "optax": optax.sgd(0.1), "batches": VECTORS, "steps": 1}
    losses = {"torch_loss": nn.functional.cross_entropy, "jax_loss": jax_loss}
    with pytest.raises(UserError, match=line):
        mlp_pair().train(**{**valid, **losses, **options})


@LONG
def test_numbers_of_a_transformation_are_read_from_it() -> None:
    chain = optax.chain(optax.clip_by_global_norm(0.3), optax.adamw(1e-3, b1=0.8, weight_decay=0.1))
    numbers = numbers_in(chain)
    assert (numbers["max_norm"], numbers["b1"], numbers["weight_decay"]) == ([0.3], [0.8], [0.1])
