"""PyTorch models and their ports to JAX: a ResNet, a ViT, a GRU tagger, a GPT, and models of torchvision and timm."""
