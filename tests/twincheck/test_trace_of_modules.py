"""Recordings of modules with one peculiarity each: no parameters, several inputs, two names, dropout."""

import jax
import torch
from flax import nnx
from recording import flax_record, torch_record
from tolerances import MODEL_FLOAT64


def test_a_model_that_is_one_layer():
    model = torch.nn.Linear(3, 2).double()
    names = ["input", "output", "loss", "output.grad"]
    assert list(torch_record(model).tensors) == ["weight", "bias", *names, "weight.grad", "bias.grad"]
    model = nnx.Linear(3, 2, param_dtype=float, rngs=nnx.Rngs(0))
    assert list(flax_record(model).tensors) == ["bias", "kernel", *names, "bias.grad", "kernel.grad"]


def test_a_model_without_parameters():
    class Gelu(nnx.Module):
        def __call__(self, x):
            return jax.nn.gelu(x, approximate=False)

    a, b = torch_record(torch.nn.GELU()).tensors, flax_record(Gelu()).tensors
    assert list(a) == list(b) == ["input", "output", "loss", "output.grad"]
    for name in a:
        MODEL_FLOAT64.assert_close(a[name], b[name], name)


def test_several_inputs_and_outputs_have_a_number_each():
    class TorchPair(torch.nn.Module):
        def forward(self, x, y, factor):
            return x * factor, {"sum": x + y}

    class TorchOuter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = TorchPair()

        def forward(self, x):
            return self.pair(x, x, factor=2)[1]["sum"]

    class FlaxPair(nnx.Module):
        def __call__(self, x, y, factor):
            return x * factor, {"sum": x + y}

    class FlaxOuter(nnx.Module):
        def __init__(self):
            self.pair = FlaxPair()

        def __call__(self, x):
            return self.pair(x, x, factor=2)[1]["sum"]

    for tensors in (torch_record(TorchOuter()).tensors, flax_record(FlaxOuter()).tensors):
        assert list(tensors)[:4] == ["pair.input.0", "pair.input.1", "pair.output.0", "pair.output.1.sum"]


def test_a_shared_module_has_one_name_and_two_calls():
    class TorchTied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(3, 3)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    class FlaxTied(nnx.Module):
        def __init__(self):
            self.a = nnx.Linear(3, 3, param_dtype=float, rngs=nnx.Rngs(0))
            self.b = self.a

        def __call__(self, x):
            return self.b(self.a(x))

    for tensors in (torch_record(TorchTied().double()).tensors, flax_record(FlaxTied()).tensors):
        assert [name for name in tensors if name.endswith(".output")] == ["a.output", "a.1.output"]
        assert sum(name.endswith(".grad") for name in tensors) == 3


def test_parameters_of_a_module_never_called_count_with_the_one_around_it():
    class TorchHead(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Linear(3, 3, bias=False)

        def forward(self, x):
            return x @ self.table.weight

    class FlaxHead(nnx.Module):
        def __init__(self):
            self.table = nnx.Linear(3, 3, use_bias=False, param_dtype=float, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return x @ self.table.kernel[...]

    torch_model = torch.nn.Sequential(torch.nn.Linear(3, 3), TorchHead()).double()
    flax_model = nnx.Sequential(nnx.Linear(3, 3, param_dtype=float, rngs=nnx.Rngs(0)), FlaxHead())
    for tensors, names in (
        (torch_record(torch_model).tensors, ["1.table.weight.grad", "0.weight.grad", "0.bias.grad"]),
        (flax_record(flax_model).tensors, ["layers.1.table.kernel.grad", "layers.0.bias.grad", "layers.0.kernel.grad"]),
    ):
        assert [name for name in tensors if name.endswith(".grad")] == ["output.grad", *names]


def test_buffers_that_a_state_dict_lacks_are_left_out():
    model = torch.nn.GELU()
    model.register_buffer("kept", torch.zeros(1))
    model.register_buffer("lost", torch.zeros(1), persistent=False)
    assert list(torch_record(model).tensors)[-2:] == ["output.grad", "kept"]


def test_dropout_draws_go_on_and_are_not_recorded():
    model = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    first, second = flax_record(model).tensors, flax_record(model).tensors
    assert list(first) == ["input", "output", "loss", "output.grad"]
    assert (first["output"] != second["output"]).any()
