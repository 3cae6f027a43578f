"""Runs the doctor, and reports missing packages that it needs itself."""

import sys


def main() -> None:
    try:
        from mlp_workload.doctor import examination
    except ImportError as error:
        from mlp_workload.errors import one_line  # needs no other package

        fix = "make setup, or pip install . in the project's folder"
        print(f"wrong  packages: {one_line(str(error))}; fix: {fix}")
        sys.exit(1)
    examination.main()


if __name__ == "__main__":
    main()
