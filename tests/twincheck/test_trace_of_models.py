"""Passes of any model, recorded: all tensors by name, in causal order, and the model left as a pass leaves it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from recording import X, flax_record, torch_record
from tolerances import MODEL_FLOAT64

import twincheck.record_torch
from mlp_workload.errors import UserError


class TorchBlock(torch.nn.Module):
    """Calls one layer twice, the layers against the order they are defined in, and has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(3, 3)
        self.first = torch.nn.Linear(3, 3)
        self.scale = torch.nn.Parameter(torch.tensor([2.0]))

    def forward(self, x):
        return self.last(self.first(self.first(x))) * self.scale


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([TorchBlock()])
        self.norm = torch.nn.BatchNorm1d(3)
        self.relu = torch.nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.norm(self.blocks[0](x)))


class InheritedLinear(nnx.Linear):
    pass


class ExtendedLinear(nnx.Linear):
    def __call__(self, x):
        return super().__call__(x)


class FlaxBlock(nnx.Module):
    def __init__(self, rngs):
        self.last = InheritedLinear(3, 3, param_dtype=float, rngs=rngs)
        self.first = ExtendedLinear(3, 3, param_dtype=float, rngs=rngs)
        self.scale = nnx.Param(jnp.array([[2.0]]))

    def __call__(self, x):
        x = self.first(self.first(x))
        self.sow(nnx.Intermediate, "seen", x)
        x = self.last(x)
        self.sow(nnx.Intermediate, "seen", x)
        return x * self.scale[...]


class FlaxBase(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([FlaxBlock(rngs)])
        self.norm = nnx.BatchNorm(3, param_dtype=float, rngs=rngs)
        self.norm.mean.set_value(jnp.zeros(3))  # float64, which param_dtype does not reach
        self.norm.var.set_value(jnp.ones(3))

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.blocks[0](x)))
        self.sow(nnx.Intermediate, "relu", x)
        return x


class FlaxNet(FlaxBase):
    pass


@pytest.fixture
def torch_net():
    torch.manual_seed(0)
    return TorchNet().double()


@pytest.fixture
def flax_net():
    return FlaxNet(nnx.Rngs(0))


def test_torch_tensors_are_in_causal_order(torch_net):
    assert list(torch_record(torch_net).tensors) == [
        "blocks.0.scale", "blocks.0.last.weight", "blocks.0.last.bias", "blocks.0.first.weight", "blocks.0.first.bias",
        "norm.weight", "norm.bias",
        "blocks.0.first.input", "blocks.0.first.output", "blocks.0.first.1.input", "blocks.0.first.1.output",
        "blocks.0.last.input", "blocks.0.last.output",
        "norm.input", "norm.output", "relu.input", "relu.output", "output", "loss", "output.grad",
        "norm.weight.grad", "norm.bias.grad",
        "blocks.0.last.weight.grad", "blocks.0.last.bias.grad",
        "blocks.0.first.weight.grad", "blocks.0.first.bias.grad", "blocks.0.scale.grad",
        "norm.running_mean", "norm.running_var",
    ]  # fmt: skip


def test_flax_arrays_are_in_causal_order(flax_net):
    assert list(flax_record(flax_net).tensors) == [
        "blocks.0.first.bias", "blocks.0.first.kernel", "blocks.0.last.bias", "blocks.0.last.kernel", "blocks.0.scale",
        "norm.bias", "norm.scale",
        "blocks.0.first.input", "blocks.0.first.output", "blocks.0.first.1.input", "blocks.0.first.1.output",
        "blocks.0.seen", "blocks.0.last.input", "blocks.0.last.output", "blocks.0.seen.1",
        "norm.input", "norm.output", "relu", "output", "loss", "output.grad",
        "norm.bias.grad", "norm.scale.grad",
        "blocks.0.last.bias.grad", "blocks.0.last.kernel.grad",
        "blocks.0.first.bias.grad", "blocks.0.first.kernel.grad", "blocks.0.scale.grad",
        "norm.mean", "norm.var",
    ]  # fmt: skip


def test_torch_values_are_those_of_an_ordinary_pass(torch_net):
    tensors = torch_record(torch_net).tensors
    again = TorchNet().double()
    again.load_state_dict(torch_net.state_dict())  # parameters; the statistics play no part in training
    output = again(torch.tensor(X))
    (output**2).sum().backward()
    block = again.blocks[0]
    hidden = block.first(torch.tensor(X))
    expected = {
        "blocks.0.first.input": torch.tensor(X),
        "blocks.0.first.output": hidden,
        "blocks.0.first.1.output": block.first(hidden),
        "norm.output": torch.nn.functional.batch_norm(block(torch.tensor(X)), None, None, training=True),
        "output": output,
        "loss": (output**2).sum(),
        "output.grad": 2 * output,
        **dict(again.named_parameters()),
        **{f"{name}.grad": parameter.grad for name, parameter in again.named_parameters()},
        "norm.running_mean": torch_net.norm.running_mean,
    }
    for name, tensor in expected.items():
        MODEL_FLOAT64.assert_close(tensors[name], tensor.detach().numpy(), name)
    assert (tensors["norm.output"] < 0).any(), "copied before ReLU overwrote it"
    assert (tensors["norm.running_mean"] != 0).all()


def test_flax_values_are_those_of_an_ordinary_pass(flax_net):
    graph, parameters, rest = nnx.split(nnx.clone(flax_net), nnx.Param, ...)

    def loss(parameters):
        model = nnx.merge(graph, parameters, rest, copy=True)
        model.blocks[0].sow = model.sow = lambda *arguments: None
        output = model(jnp.asarray(X))
        return (output**2).sum(), (output, nnx.state(model, nnx.BatchStat))

    (value, (output, statistics)), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
    hidden = nnx.clone(flax_net).blocks[0].first(jnp.asarray(X))
    tensors = flax_record(flax_net).tensors
    expected = {
        "blocks.0.first.input": X,
        "blocks.0.first.output": hidden,
        "blocks.0.first.1.input": hidden,
        "blocks.0.seen": tensors["blocks.0.first.1.output"],
        "blocks.0.seen.1": tensors["blocks.0.last.output"],
        "norm.input": tensors["blocks.0.last.output"] * 2,
        "relu": output,
        "output": output,
        "loss": value,
        "output.grad": 2 * output,
        "norm.mean": statistics["norm"]["mean"].get_value(),
        "norm.var": flax_net.norm.var.get_value(),
        "blocks.0.scale": flax_net.blocks[0].scale.get_value(),
        "blocks.0.scale.grad": gradients["blocks"][0]["scale"].get_value(),
        "blocks.0.first.kernel.grad": gradients["blocks"][0]["first"]["kernel"].get_value(),
        "norm.scale.grad": gradients["norm"]["scale"].get_value(),
    }
    for name, array in expected.items():
        MODEL_FLOAT64.assert_close(tensors[name], array, name)
    assert (tensors["norm.mean"] != 0).all()


def test_a_second_recording_goes_on_from_the_first_ones_statistics(torch_net, flax_net):
    for record, model, name in (
        (torch_record, torch_net, "norm.running_mean"),
        (flax_record, flax_net, "norm.mean"),
    ):
        first, second = record(model).tensors, record(model).tensors
        assert list(first) == list(second)
        assert (first["output"] == second["output"]).all()
        momentum = 0.9 if model is torch_net else 0.99
        MODEL_FLOAT64.assert_close(second[name], (1 + momentum) * first[name])
    assert not hasattr(flax_net, "relu"), "what is sown is not stored"


def test_arrays_are_copies_in_numpy_and_facts_name_the_framework(torch_net, flax_net):
    for trace, version in ((torch_record(torch_net), torch.__version__), (flax_record(flax_net), jax.__version__)):
        assert all(type(array) is np.ndarray for array in trace.tensors.values())
        assert all(array.flags.owndata and array.flags.writeable for array in trace.tensors.values())
        assert trace.facts == {"framework": "torch" if version == torch.__version__ else "jax", "version": version}


def test_torchs_grad_and_mode_stay_as_they_are(torch_net):
    torch_net.blocks[0].scale.grad = torch.tensor([7.0]).double()
    torch_net.eval()
    tensors = torch_record(torch_net).tensors
    assert torch_net.blocks[0].scale.grad == 7
    assert torch_net.norm.weight.grad is None
    assert (tensors["norm.running_mean"] == 0).all()


class TorchFailing(TorchNet):
    def forward(self, x):
        super().forward(x)
        raise ZeroDivisionError


class FlaxFailing(FlaxNet):
    def __call__(self, x):
        super().__call__(x)
        raise ZeroDivisionError


@pytest.mark.parametrize("failing", [True, False])
def test_torchs_hooks_are_removed(failing):
    model = (TorchFailing if failing else TorchNet)().double()
    if failing:
        with pytest.raises(ZeroDivisionError):
            torch_record(model)
    else:
        torch_record(model)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("failing", [True, False])
def test_flaxs_types_are_restored(failing):
    types = (FlaxBase, FlaxNet, FlaxFailing, FlaxBlock, InheritedLinear, ExtendedLinear, nnx.Linear, nnx.BatchNorm)
    before = [vars(owner).get("__call__") for owner in types], nnx.Module.sow
    model = (FlaxFailing if failing else FlaxNet)(nnx.Rngs(0))
    if failing:
        with pytest.raises(ZeroDivisionError):
            flax_record(model)
        assert (model.norm.mean.get_value() == 0).all(), "no tracer is left in the model"
    else:
        flax_record(model)
    assert ([vars(owner).get("__call__") for owner in types], nnx.Module.sow) == before


def test_torch_names_an_unused_parameter_and_passes_over_a_frozen_one(torch_net):
    torch_net.blocks[0].scale.requires_grad_(False)
    assert "blocks.0.scale.grad" not in torch_record(torch_net).tensors
    torch_net.unused = torch.nn.Linear(3, 3)
    with pytest.raises(UserError, match=r"^unused.weight has no gradient: the loss does not depend on it"):
        torch_record(torch_net)


@pytest.mark.parametrize("record", ["torch", "flax"])
def test_what_can_not_be_recorded_is_refused(record, torch_net, flax_net):
    record, model, root = {
        "torch": (torch_record, torch_net, torch.nn.Module),
        "flax": (flax_record, flax_net, nnx.Module),
    }[record]

    class Pair(root):
        def forward(self, x):
            return x, x

        __call__ = forward

    with pytest.raises(UserError, match="the model returns tuple, expected one"):
        record(Pair())
    with pytest.raises(UserError, match=r"the loss has shape \(4, 3\), expected one number"):
        record(model, lambda output: output**2)


def test_two_tensors_of_one_name_are_refused():
    model = torch.nn.Linear(3, 3).double()
    model.register_buffer("loss", torch.zeros(1))
    with pytest.raises(UserError, match="two tensors of the pass are called loss"):
        torch_record(model)

    class Sowing(nnx.Module):
        def __call__(self, x):
            self.sow(nnx.Intermediate, "output", x)
            return x

    with pytest.raises(UserError, match="two arrays of the pass are called output"):
        flax_record(Sowing())


def test_a_call_inside_jaxs_checkpoint_is_refused_by_name():
    class Checkpointed(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(3, 3, param_dtype=float, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jax.checkpoint(lambda x: self.linear(x))(x)

    with pytest.raises(UserError, match=r"^linear.input is computed inside a transformation"):
        flax_record(Checkpointed())


def test_inside_nnx_jit_nothing_is_seen_and_the_rest_is_right():
    class Jitted(FlaxNet):
        __call__ = nnx.jit(lambda self, x: self.norm(self.blocks[0].first(x)))

    jitted = flax_record(Jitted(nnx.Rngs(0))).tensors
    assert not any(name.endswith((".input", ".output")) for name in jitted)
    assert (jitted["norm.mean"] != 0).all()
    assert (jitted["norm.bias.grad"] != 0).all()


def test_torch_tensors_that_numpy_lacks_are_refused_by_name_and_sparse_ones_taken():
    model = torch.nn.Linear(3, 2).bfloat16()
    with pytest.raises(UserError, match=r"weight is torch\.bfloat16, which NumPy lacks"):
        twincheck.record_torch.record(model, lambda y: y.sum(), torch.zeros(1, 3, dtype=torch.bfloat16))
    embedding = torch.nn.Embedding(4, 3, sparse=True)
    trace = twincheck.record_torch.record(embedding, lambda y: y.sum(), torch.tensor([1, 1, 3]))
    assert trace.tensors["weight.grad"].tolist() == [[0] * 3, [2] * 3, [0] * 3, [1] * 3]
