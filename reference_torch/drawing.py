"""Answers the page of `--draw` with PyTorch, in a process that it starts: `python -m reference_torch.drawing RUN`."""

from mlp_workload.predict.draw_answers import answer
from reference_torch.predict import load_network

if __name__ == "__main__":
    answer(load_network)
