"""Answers the page of `--draw` with JAX, in a process that it starts: `python -m jax_mlp.drawing RUN`."""

from jax_mlp.predict import load_network
from mlp_workload.environment.compile_cache import keep_compiled_programs
from mlp_workload.predict.draw_answers import answer

if __name__ == "__main__":
    keep_compiled_programs()
    answer(load_network)
