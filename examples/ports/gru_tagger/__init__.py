"""A tagger with a bidirectional GRU, in torch, Flax NNX and Flax linen."""
