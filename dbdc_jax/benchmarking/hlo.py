"""The text of a compiled program (XLA's HLO), read into its instructions.

What is read is what `jax.stages.Compiled.as_text` gives after scheduling: one
instruction a line, in computations that call each other, with tables of the
source lines that each instruction came from.
"""

import functools
import itertools
import math
import re
from typing import NamedTuple

_HEADER = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_NAME = re.compile(r'\s+(?:ROOT )?%?([\w.-]+) = ')
_OPCODE = re.compile(r' ([a-z][\w-]*)\(')
_OPERAND = re.compile(r'%([\w.-]+)')
# An array: its type and sizes. What a type is called holds its bits.
_ARRAY = re.compile(r'\b([a-z]+)(\d*)\w*\[([\d,]*)\]')
_ROW = re.compile(r'(\d+) (.*)')
_FIELD = re.compile(r'(\w+)=(\d+)')
_TABLES = ('FileNames', 'FunctionNames', 'FileLocations', 'StackFrames')


class Instruction(NamedTuple):
  """One line of a computation.

  Attributes:
    name: unique in the program.
    shape: of the result, as text: 'f32[2,3]{1,0}' or a tuple of such.
    opcode: 'fusion', 'custom-call', 'copy', ...
    operands: names of the instructions that it reads.
    attributes: the rest of the line.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str

  def attribute(self, name: str) -> str | None:
    """The value of `name=`, without its quotes or the name's '%'."""
    found = re.search(rf'\b{name}=("[^"]*"|[^\s,}}]+)', self.attributes)
    return found and found[1].strip('"%')

  @property
  def called(self) -> list[str]:
    """The computations that it names, in the order of the line."""
    lists = re.findall(
      r'\b(?:calls|to_apply|body|condition|true_computation'
      r'|false_computation|branch_computations)=(\{[^}]*\}|%[\w.-]+)',
      self.attributes,
    )
    return [name for text in lists for name in _OPERAND.findall(text)]

  @property
  def trip_count(self) -> int | None:
    """How often a loop's body runs, None where the compiler does not know."""
    found = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', self.attributes)
    return int(found[1]) if found else None


class Module(NamedTuple):
  """A compiled program.

  Attributes:
    entry: name of the computation that is run.
    computations: name -> its instructions, in the order in which they run.
    sources: stack frame -> files of its calls, the innermost first.
  """

  entry: str
  computations: dict[str, list[Instruction]]
  sources: dict[int, tuple[str, ...]]

  def files(self, instruction: Instruction) -> tuple[str, ...]:
    """The source files an instruction came through, the innermost first."""
    frame = instruction.attribute('stack_frame_id')
    return self.sources.get(int(frame), ()) if frame else ()


@functools.cache
def size(shape: str) -> int:
  """Bytes of an array, or of a tuple's arrays, given as text."""
  total = 0
  for kind, bits, sizes in _ARRAY.findall(shape):
    width = 8 if kind == 'pred' else int(bits or 0)
    total += math.ceil(
      math.prod(int(s) for s in sizes.split(',') if s) * width / 8
    )
  return total


def _closing(text: str, start: int) -> int:
  """The place of the bracket that closes the one at `start`."""
  steps = ((char == '(') - (char == ')') for char in text[start:])
  depths = enumerate(itertools.accumulate(steps), start)
  return next((place for place, depth in depths if not depth), len(text))


def _instruction(line: str) -> Instruction | None:
  name = _NAME.match(line)
  if not name:
    return None
  start = name.end()
  # A tuple's shape holds spaces and brackets.
  several = line[start] == '('
  end = _closing(line, start) + 1 if several else line.find(' ', start)
  opcode = _OPCODE.match(line, end)
  if not opcode:
    return None
  last = _closing(line, opcode.end() - 1)
  return Instruction(
    name=name[1],
    shape=line[start:end],
    opcode=opcode[1],
    operands=tuple(_OPERAND.findall(line[opcode.end() : last])),
    attributes=line[last + 1 :],
  )


def _sources(tables: dict[str, dict[int, str]]) -> dict[int, tuple[str, ...]]:
  """Files of every stack frame, from the four tables of the text."""
  frames = {
    number: {key: int(value) for key, value in _FIELD.findall(row)}
    for number, row in tables['StackFrames'].items()
  }
  # The first frame has no parent. Some versions of XLA write 0 for that, others
  # write every parent's number raised by one.
  raised = frames.get(1, {}).get('parent_frame_id', 0)
  found: dict[int, tuple[str, ...]] = {0: ()}
  for number, frame in sorted(frames.items()):
    location = tables['FileLocations'].get(frame['file_location_id'], '')
    file = int(dict(_FIELD.findall(location)).get('file_name_id', 0))
    name = tables['FileNames'].get(file, '').strip('"')
    parent = frame.get('parent_frame_id', raised) - raised
    found[number] = (name, *found.get(parent, ()))
  return found


def parse(text: str) -> Module:
  """Reads a program.

  Args:
    text: of a scheduled HLO module.

  Raises:
    ValueError: a text without an entry computation.
  """
  entry, table = '', ''
  here: list[Instruction] | None = None
  computations: dict[str, list[Instruction]] = {}
  tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
  for line in text.splitlines():
    if line in tables:
      table = line
    elif table and (row := _ROW.fullmatch(line)):
      tables[table][int(row[1])] = row[2]
    elif header := _HEADER.match(line):
      here = computations.setdefault(header[2], [])
      entry = header[2] if header[1] else entry
    elif line.startswith('}'):
      here = None
    elif here is not None and (found := _instruction(line)):
      here.append(found)
  if not entry:
    raise ValueError('no entry computation: this is not the text of a program')
  return Module(entry, computations, _sources(tables))
