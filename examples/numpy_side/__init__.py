"""The MLP once more, in plain NumPy and float64: the smallest side there is, to read and to copy from."""
