"""`python -m mlp_workload.doctor`, which says so too where packages are missing that it needs itself."""

import sys


def main() -> None:
    try:
        from mlp_workload.doctor import examination
    except ImportError as error:
        from mlp_workload.errors import one_line  # which imports no other package

        fix = "make setup, or pip install . in the project's folder"
        print(f"wrong  packages: {one_line(str(error))}; fix: {fix}")
        sys.exit(1)
    examination.main()


if __name__ == "__main__":
    main()
