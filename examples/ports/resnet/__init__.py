"""A ResNet of basic blocks, in torch, Flax NNX and Equinox."""
