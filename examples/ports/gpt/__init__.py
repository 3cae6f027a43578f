"""A GPT with rotary embeddings and grouped heads, in torch, Flax NNX and Haiku."""
