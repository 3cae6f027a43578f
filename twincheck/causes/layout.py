"""The order of axes and values, and simple differences of values: what differs."""

from collections.abc import Sequence

from twincheck.causes.cause import LINEAR_PAGE, Cause, jax_page, torch_page

CAUSES: Sequence[Cause] = (
    Cause(
        "nhwc-flatten",
        "Layout: the sides flatten in different orders: (channels, height, width) and (height, width, channels).",
        "x.transpose(0, 3, 1, 2).reshape(len(x), -1), if torch flattens channels first",
        torch_page("flatten"),
        jax_page("jax.numpy.reshape"),
    ),
    Cause(
        "transposed",
        "Layout: the array is transposed on one side.",
        "x.T, or swap the two axes",
        torch_page("transpose"),
        jax_page("jax.numpy.swapaxes"),
    ),
    Cause(
        "channels-reversed",
        "Layout: the last axis is reversed, as with RGB against BGR.",
        "x[..., ::-1]",
        torch_page("flip"),
        jax_page("jax.numpy.flip"),
    ),
    Cause(
        "axis-reversed",
        "Layout: an axis is reversed, such as the time axis of a recurrent layer.",
        "jnp.flip(x, axis)",
        torch_page("flip"),
        jax_page("jax.numpy.flip"),
    ),
    Cause(
        "channels-permuted",
        "Layout: the channels come in another order, as parts that are concatenated or split in another one.",
        "Concatenate or split in the order of the PyTorch model, or take x[..., order].",
        torch_page("permute"),
        jax_page("jax.numpy.take"),
    ),
    Cause(
        "shifted",
        "Layout: the values lie one or two places further along an axis; padding or the first position differs.",
        "Pad at the same end; count positions from the same number.",
        torch_page("roll"),
        jax_page("jax.numpy.roll"),
    ),
    Cause("sign", "Sign: the values have the opposite sign.", "-x", torch_page("neg"), jax_page("jax.numpy.negative")),
    Cause(
        "constant-factor",
        "Scale: the values differ by one factor.",
        "Multiply by torch's factor divided by JAX's.",
        torch_page("mul"),
        jax_page("jax.numpy.multiply"),
    ),
    Cause(
        "constant-offset",
        "Offset: the values differ by one constant.",
        "Add the constant that torch adds, or leave out what JAX adds.",
        torch_page("add"),
        jax_page("jax.numpy.add"),
    ),
    Cause(
        "bias-left-out",
        "Bias: each channel differs by a constant of its own.",
        "Add the bias of the PyTorch model, or leave out one that it has not.",
        torch_page("nn.Linear"),
        LINEAR_PAGE,
    ),
)
