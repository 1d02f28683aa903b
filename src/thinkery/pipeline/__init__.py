"""The graph that a recipe draws, and the directory that remembers what came of it. Imports no torch."""
