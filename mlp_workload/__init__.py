"""Everything that both trainers share: configuration, data, runs, sinks, commands. Imports neither JAX nor torch."""
