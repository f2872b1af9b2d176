"""What a program that was compiled for a GPU does, counted in its text.

A kernel is an instruction that runs by itself: a fusion, a convolution, a copy.
It moves what it reads and what it writes, each array once and whole, even where
it needs a slice of it or the cache still holds it. So the bytes compare
programs and say what bounds them; they are not a time. A small kernel takes as
long as starting it does.
"""

from collections import Counter
from typing import Any

from dbdc_jax.benchmarking import hlo, origins
from dbdc_jax.benchmarking.origins import Origin, Part

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


# ('kernels', origin), ('bytes', origin), 'copies', 'loops' and 'open_loops'.
_Counts = Counter[Any]


def _total(found: _Counts, kind: str) -> int:
  """Kernels or bytes of all parts."""
  return sum(n for key, n in found.items() if key[0] == kind)


def _loop(module, loop, times) -> _Counts:
  trips = loop.trip_count
  repeats = times if trips is None else times * trips
  found = _walk(module, loop.attribute('body'), repeats)
  if trips is None:
    # The condition of a loop of known length is not computed.
    found += _walk(module, loop.attribute('condition'), times)
    found['open_loops'] += times
  found['loops'] += times
  return found


def _walk(module, computation, times) -> _Counts:
  """Counts the kernels of a computation that runs so many times."""
  instructions = module.computations[computation]
  known = {instruction.name: instruction for instruction in instructions}
  found: _Counts = Counter()
  for instruction in instructions:
    opcode = instruction.opcode
    # What is started counts where it is done: there its result is known.
    if opcode in _FREE or opcode.endswith(('-start', '-update')):
      continue
    if opcode == 'while':
      found += _loop(module, instruction, times)
      continue
    if opcode in ('call', 'conditional'):
      inner = [_walk(module, name, times) for name in instruction.called]
      if opcode == 'conditional':
        # One branch runs: the one that moves most counts.
        inner = [max(inner, key=lambda branch: _total(branch, 'bytes'))]
      found = sum(inner, found)
      continue
    kernel = instruction
    while kernel.opcode.endswith(('-done', '-update')):
      kernel = known[kernel.operands[0]]
    moved = hlo.size(instruction.shape) + sum(
      hlo.size(known[name].shape) for name in set(kernel.operands)
    )
    origin = origins.of(module, kernel)
    found['kernels', origin] += times
    found['bytes', origin] += times * moved
    found['copies'] += times * (opcode in ('copy', 'copy-done'))
  return found


def count(text: str) -> dict[str, Any]:
  """Counts what one run of a program does, as JSON holds it.

  Args:
    text: as `jax.stages.Compiled.as_text` gives it.

  Returns:
    'kernels' that run and 'bytes' that they read and write; 'copies': kernels
    that only copy; 'loops' that are run; 'open_loops': those of them whose
    length the compiler does not know; their bodies count once, so that the
    other numbers are too small; 'parts': part -> 'forward' and 'backward' ->
    its kernels and bytes, in the order of a table. A loop's body counts as
    often as it runs.

  Raises:
    ValueError: the text is not of a program.
  """
  module = hlo.parse(text)
  found = _walk(module, module.entry, 1)
  kinds = ('kernels', 'bytes')
  parts = {
    part: {
      way: {kind: found[kind, Origin(part, backward)] for kind in kinds}
      for way, backward in (('forward', False), ('backward', True))
    }
    for part in Part
  }
  return {
    **{kind: _total(found, kind) for kind in kinds},
    **{kind: found[kind] for kind in ('copies', 'loops', 'open_loops')},
    'parts': parts,
  }
