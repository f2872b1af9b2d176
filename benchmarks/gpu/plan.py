"""The parts of the check, in order of their value, and what they share."""

import argparse
import time
from typing import Any, NamedTuple

from benchmarks.gpu import workspace


class Part(NamedTuple):
  """A part.

  Attributes:
    name: of its numbers in results.json.
    needed: seconds that must be left to begin it.
    most: seconds after which it is killed.
    module: of this folder, that has it.
    function: `(context, name, found)`, writes its numbers into `found`.
  """

  name: str
  needed: float
  most: float
  module: str
  function: str


PARTS = (
  Part('env', 15, 70, 'machine', 'measure'),
  Part('correct', 40, 190, 'correct', 'compare'),
  Part('dbdc_heart_bf16', 40, 260, 'steps', 'measure'),
  Part('trace', 15, 60, 'tracing', 'measure'),
  Part('sup_heart_bf16', 20, 100, 'steps', 'measure'),
  Part('torch_heart', 25, 230, 'torch_peer', 'measure'),
  Part('predict', 15, 75, 'prediction', 'measure'),
  Part('loop', 20, 100, 'training', 'measure_loop'),
  Part('micro', 25, 120, 'micro', 'measure'),
  Part('train', 70, 260, 'training', 'train'),
  Part('export', 20, 90, 'exporting', 'measure'),
  Part('deterministic', 60, 200, 'runs', 'repeat'),
  Part('dbdc_abdomen_bf16', 60, 200, 'steps', 'measure'),
  Part('torch_abdomen', 20, 90, 'torch_peer', 'measure'),
  Part('dbdc_heart_f32', 60, 180, 'steps', 'measure'),
  Part('torch_heart_f32', 15, 60, 'torch_peer', 'measure'),
  Part('sup_abdomen_bf16', 25, 100, 'steps', 'measure'),
  Part('sup_heart_f32', 25, 100, 'steps', 'measure'),
  Part('correctlow', 60, 150, 'correct', 'compare'),
  Part('dbdc_abdomen_f32', 60, 200, 'steps', 'measure'),
  Part('arena', 60, 150, 'micro', 'measure_arena'),
  Part('drill', 60, 200, 'runs', 'drill'),
)
NAMES = tuple(part.name for part in PARTS)


def chosen(names: str) -> list[Part]:
  """The parts of a comma-separated list, in the order of `PARTS`.

  Raises:
    ValueError: a name that no part has.
  """
  wanted = [name for name in names.split(',') if name] or NAMES
  unknown = sorted(set(wanted) - set(NAMES))
  if unknown:
    raise ValueError(
      f'--parts: {", ".join(unknown)}: choose from {", ".join(NAMES)}'
    )
  return [part for part in PARTS if part.name in wanted]


class Found(dict):
  """A part's numbers; what is saved survives a crash of the part."""

  def __init__(self, name: str):
    self._file = workspace.part_file(name)

  def save(self) -> None:
    """Writes what is known so far."""
    workspace.write(self._file, self)


class Context:
  """What the parts of a worker share.

  Attributes:
    flags: of the command.
    tiny: whether sizes are those of a rehearsal.
    compiled: compiled steps by the name of their part, see `steps`.
  """

  def __init__(self, flags: argparse.Namespace):
    self.flags = flags
    self.tiny = flags.tiny
    self.compiled: dict[str, Any] = {}

  def left(self) -> float:
    """Seconds until the budget's end."""
    return self.flags.deadline - time.time()

  def part(self, name: str) -> dict[str, Any]:
    """Another part's numbers; empty where it has not run."""
    return workspace.read(workspace.part_file(name), {})
