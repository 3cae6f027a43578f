"""When more devices help: a cost model of a step, fitted to measured times."""
