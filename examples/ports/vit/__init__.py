"""A vision transformer, in torch, Flax NNX and Flax linen."""
