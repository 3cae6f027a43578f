"""Times all ways of training the network: `python -m mlp_compare.bench --help`."""

from mlp_compare.bench.options import Bench
from mlp_workload.cli.parse import run_command
from mlp_workload.files import new_file, write_atomically, write_json
from mlp_workload.sinks.console import Output

ALIASES = {"--rungs": "--variants", "--many": "--seeds"}


def main() -> None:
    run_command("python -m mlp_compare.bench", Bench, run, aliases=ALIASES)


def run(options: Bench) -> None:
    from mlp_compare.bench import benchmark, picture, tables  # `main` reports a missing scipy or matplotlib

    console = Output()
    with new_file("--json", options.json) as file, new_file("--plot", options.plot) as plot:
        for result in benchmark.measure(options, console):  # each result has more than the one before
            if file is not None:
                write_json(file, result)
        tables.show(console, result)
        if plot is not None:
            write_atomically(plot, picture.draw(result))


if __name__ == "__main__":
    main()
