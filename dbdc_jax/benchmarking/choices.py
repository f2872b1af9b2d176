"""What may be measured; known without jax."""

from importlib import resources
import pathlib

# Twice the modalities may take this much longer.
COMPARE_LIMIT = 2.2
# What compiling for a card needs.
REQUIREMENTS = 'benchmarks/requirements-compile.txt'


def cards() -> tuple[str, ...]:
  """The cards that a step can be compiled for."""
  files = resources.files(__package__).joinpath('cards').iterdir()
  return tuple(sorted(pathlib.Path(file.name).stem for file in files))
