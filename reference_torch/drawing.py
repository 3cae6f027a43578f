"""PyTorch's answers for the page of `--draw`: `python -m reference_torch.drawing RUN`, which it starts."""

from mlp_workload.predict.draw_answers import answer
from reference_torch.predict import load_network

if __name__ == "__main__":
    answer(load_network)
