"""Which part of the method a kernel of a compiled program belongs to.

The compiler says of most instructions which operation of jax they came from,
and through which source files. A kernel that fuses several parts counts as its
last operation's; one that the compiler made itself as what most of its
instructions came from.
"""

from collections import Counter
import enum
import re
from typing import NamedTuple

from dbdc_jax.benchmarking import hlo


class Part(enum.StrEnum):
  """The parts, in the order of a table."""

  CONVOLUTIONS = 'convolutions'
  NETWORK = 'network: normalisations, elementwise'
  PRODUCTS = 'projector: matrix products'
  PROJECTOR = 'projector: elementwise'
  PROTOTYPES = 'prototypes'
  SINKHORN = 'Sinkhorn'
  VIEWS = 'views: crops, curves, noise'
  DRAWS = 'random draws'
  LOSSES = 'losses'
  OPTIMIZER = 'optimizer'
  COPIES = 'copies'
  OTHER = 'other'


# Of the files that an operation came through, the first of these decides: a
# loss inside of the prototypes' terms is theirs, optax's losses are losses.
_FILES = (
  ('/sinkhorn.py', Part.SINKHORN),
  ('/models/projector.py', Part.PROJECTOR),
  ('/prototypes.py', Part.PROTOTYPES),
  ('dbdc_jax/models/', Part.NETWORK),
  ('/augment.py', Part.VIEWS),
  ('/supervision.py', Part.LOSSES),
  ('/local_correlation.py', Part.LOSSES),
  ('dbdc_jax/ops/losses.py', Part.LOSSES),
  ('/optax/', Part.OPTIMIZER),
  ('dbdc_jax/ops/optimizer.py', Part.OPTIMIZER),
)
# jax's own files are in no stack; its draws have names.
_DRAW = re.compile(
  r'threefry|random_|jit\(_?(bernoulli|normal|uniform|randint|beta|gamma)'
)
_PRODUCT = re.compile(r'gemm|matmul')


class Origin(NamedTuple):
  """Where a kernel comes from.

  Attributes:
    part: of the method.
    backward: whether differentiation made it.
  """

  part: Part
  backward: bool


def _said(module: hlo.Module, instruction: hlo.Instruction) -> Origin | None:
  """What an instruction's own line says, None if it says nothing."""
  name = instruction.attribute('op_name') or ''
  files = module.files(instruction)
  if not name and not files:
    return None
  backward = 'transpose(jvp' in name
  if _DRAW.search(name):
    return Origin(Part.DRAWS, backward)
  for place, part in _FILES:
    if any(place in file for file in files):
      return Origin(part, backward)
  return Origin(Part.OTHER, backward)


def of(module: hlo.Module, kernel: hlo.Instruction) -> Origin:
  """The part that a kernel belongs to.

  Args:
    module: the program.
    kernel: an instruction that runs as a kernel.
  """
  inner = [
    instruction
    for name in kernel.called
    for instruction in module.computations.get(name, ())
  ]
  origin = _said(module, kernel)
  if origin is None or origin.part == Part.OTHER:
    votes = Counter(
      said
      for instruction in inner
      if (said := _said(module, instruction)) and said.part != Part.OTHER
    )
    origin = votes.most_common(1)[0][0] if votes else origin
  origin = origin or Origin(Part.OTHER, False)
  target = kernel.attribute('custom_call_target') or ''
  opcodes = {kernel.opcode, *(instruction.opcode for instruction in inner)}
  if 'convolution' in opcodes or '$conv' in target:
    # The gradients' kernels have names of their own.
    return Origin(Part.CONVOLUTIONS, origin.backward or 'Backward' in target)
  if kernel.opcode.startswith('copy'):
    return Origin(Part.COPIES, origin.backward)
  if origin.part == Part.PROJECTOR and (
    'dot' in opcodes or _PRODUCT.search(target)
  ):
    return Origin(Part.PRODUCTS, origin.backward)
  return origin
