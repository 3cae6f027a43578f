"""A torch model and ports of it, right and wrong; also a file for `python -m twincheck FILE:FUNCTION`."""

import numpy as np
from flax import nnx

import twincheck

INPUT = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


class Port(nnx.Module):
    def __init__(self, epsilon=1e-5, approximate=False, bias=True):
        rngs = nnx.Rngs(0)
        self.a = nnx.Linear(4, 8, use_bias=bias, rngs=rngs)
        self.n = nnx.LayerNorm(8, epsilon=epsilon, rngs=rngs)
        self.b = nnx.Linear(8, 3, rngs=rngs)
        self.approximate = approximate

    def __call__(self, x):
        return self.b(nnx.gelu(self.n(self.a(x)), approximate=self.approximate))


def jax_side(**options):
    return twincheck.nnx(Port(**options), INPUT)


def torch_side():
    import torch

    class Original(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(4, 8)
            self.n = torch.nn.LayerNorm(8)
            self.b = torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.b(torch.nn.functional.gelu(self.n(self.a(x))))

    torch.manual_seed(0)
    return twincheck.torch(Original(), INPUT)


def right():
    return torch_side(), jax_side()


def wrong():
    return torch_side(), jax_side(epsilon=1e-6, approximate=True)


def without_bias():
    return torch_side(), jax_side(bias=False)


def paired():
    return twincheck.pair(*right())


def raises():
    raise ValueError("of its own")


def returns_nothing():
    pass


def returns_sides_in_the_wrong_order():
    return right()[::-1]


def fails_when_it_runs():
    return torch_side(), twincheck.nnx(Port(), INPUT, lambda model, x: model(x) @ x)


def ends_the_program():
    raise SystemExit(0)
