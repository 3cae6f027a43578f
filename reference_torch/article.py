"""The former name of `python -m reference_torch.tutorial`."""

from reference_torch.tutorial import main

if __name__ == "__main__":
    main()
