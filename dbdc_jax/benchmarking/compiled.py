"""What a program that was compiled for a GPU does, counted in its text.

A kernel is an instruction that runs by itself: a fusion, a convolution, a copy.
It moves what it reads and what it writes, each array once and whole, even where
it needs a slice of it or the cache still holds it. So the bytes compare
programs and say what bounds them; they are not a time. A small kernel takes as
long as starting it does.
"""

from collections import defaultdict
import dataclasses
from typing import Any

from dbdc_jax.benchmarking import hlo, origins

# What names arrays without touching them, or is there before the program runs.
_FREE = {
  'add-dependency',
  'after-all',
  'bitcast',
  'constant',
  'domain',
  'get-tuple-element',
  'opt-barrier',
  'parameter',
  'partition-id',
  'replica-id',
  'tuple',
}


@dataclasses.dataclass
class Count:
  """Kernels that run, and bytes that they read and write."""

  kernels: int = 0
  bytes: int = 0


@dataclasses.dataclass
class Compiled:
  """Counts of one run of a program; a loop's body counts as often as it runs.

  Attributes:
    parts: where kernels come from -> their count.
    copies: kernels that only copy.
    loops: loops that are run.
    open_loops: those of them whose length the compiler does not know; their
      bodies count once, so that the other numbers are too small.
  """

  parts: dict[origins.Origin, Count] = dataclasses.field(
    default_factory=lambda: defaultdict(Count)
  )
  copies: int = 0
  loops: int = 0
  open_loops: int = 0

  @property
  def kernels(self) -> int:
    """All kernels."""
    return sum(count.kernels for count in self.parts.values())

  @property
  def bytes(self) -> int:
    """Read and written by all kernels."""
    return sum(count.bytes for count in self.parts.values())

  def add(self, other: 'Compiled') -> None:
    """Adds what a part of the program does."""
    for origin, count in other.parts.items():
      self.parts[origin].kernels += count.kernels
      self.parts[origin].bytes += count.bytes
    self.copies += other.copies
    self.loops += other.loops
    self.open_loops += other.open_loops

  def as_dict(self) -> dict[str, Any]:
    """The counts as JSON holds them; parts in the order of a table."""
    kinds = {False: 'forward', True: 'backward'}
    parts = {
      part: {
        name: dataclasses.asdict(
          self.parts.get(origins.Origin(part, backward), Count())
        )
        for backward, name in kinds.items()
      }
      for part in origins.PARTS
    }
    return {
      'kernels': self.kernels,
      'bytes': self.bytes,
      'copies': self.copies,
      'loops': self.loops,
      'open_loops': self.open_loops,
      'parts': parts,
    }


def _loop(module, loop, times, found) -> None:
  found.loops += times
  trips = loop.trip_count
  if trips is None:
    found.open_loops += times
    trips = 1
    # The condition of a loop of known length is not computed.
    _walk(module, loop.attribute('condition'), times, found)
  _walk(module, loop.attribute('body'), times * trips, found)


def _branch(module, conditional, times, found) -> None:
  """One branch runs: the one that moves most counts."""
  branches = []
  for name in conditional.called:
    branches.append(Compiled())
    _walk(module, name, times, branches[-1])
  found.add(max(branches, key=lambda branch: branch.bytes))


def _walk(module, computation, times, found) -> None:
  """Counts the kernels of a computation that runs so many times."""
  instructions = module.computations[computation]
  known = {instruction.name: instruction for instruction in instructions}
  for instruction in instructions:
    opcode = instruction.opcode
    # What is started counts where it is done: there its result is known.
    if opcode in _FREE or opcode.endswith(('-start', '-update')):
      continue
    if opcode == 'while':
      _loop(module, instruction, times, found)
      continue
    if opcode == 'conditional':
      _branch(module, instruction, times, found)
      continue
    if opcode == 'call':
      for name in instruction.called:
        _walk(module, name, times, found)
      continue
    kernel = instruction
    while kernel.opcode.endswith(('-done', '-update')):
      kernel = known[kernel.operands[0]]
    moved = hlo.size(instruction.shape) + sum(
      hlo.size(known[name].shape) for name in set(kernel.operands)
    )
    count = found.parts[origins.of(module, kernel)]
    count.kernels += times
    count.bytes += times * moved
    found.copies += times * (opcode in ('copy', 'copy-done'))


def count(text: str) -> Compiled:
  """Counts what a program does.

  Args:
    text: as `jax.stages.Compiled.as_text` gives it.

  Raises:
    ValueError: the text is not of a program.
  """
  module = hlo.parse(text)
  found = Compiled()
  _walk(module, module.entry, 1, found)
  return found
