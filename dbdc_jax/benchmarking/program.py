"""What a traced step computes and sends, counted in its jaxpr.

The count is of the program as written, forward and backward: every convolution
and matrix product, every collective, a loop's body as often as it runs. The
compiler may do less (it merges collectives) but not more.
"""

from collections import Counter
from collections.abc import Iterator
import dataclasses
import math
from typing import Any

import jax

_COLLECTIVES = {
  'all_gather': 'all_gather',
  'all_to_all': 'all_to_all',
  'pmax': 'all_reduce',
  'pmin': 'all_reduce',
  'ppermute': 'collective_permute',
  'psum': 'all_reduce',
  'psum2': 'all_reduce',
  'psum_invariant': 'all_reduce',
  'psum_scatter': 'reduce_scatter',
  'reduce_scatter': 'reduce_scatter',
}


@dataclasses.dataclass
class Program:
  """Counts of one call, on one device.

  Attributes:
    macs: multiply-accumulates of convolutions and matrix products.
    collectives: kind -> number of arrays that are sent.
    collective_bytes: kind -> bytes of these arrays.
  """

  macs: int = 0
  collectives: Counter = dataclasses.field(default_factory=Counter)
  collective_bytes: Counter = dataclasses.field(default_factory=Counter)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """The jaxprs that an equation calls."""
  for value in params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      part = getattr(part, 'jaxpr', part)
      if hasattr(part, 'eqns'):
        yield part


def _macs(eqn: Any) -> int:
  out = math.prod(eqn.outvars[0].aval.shape)
  if eqn.primitive.name == 'dot_general':
    (contracted, _), _ = eqn.params['dimension_numbers']
    shape = eqn.invars[0].aval.shape
    return out * math.prod(shape[i] for i in contracted)
  if eqn.primitive.name == 'conv_general_dilated':
    kernel = eqn.invars[1].aval.shape
    out_features = eqn.params['dimension_numbers'].rhs_spec[0]
    return out * math.prod(kernel) // kernel[out_features]
  return 0


def _counted(jaxpr: Any, times: int = 1) -> Program:
  """Counts a jaxpr that runs so many times."""
  found = Program()
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    found.macs += times * _macs(eqn)
    if kind := _COLLECTIVES.get(name):
      sent = [v.aval for v in eqn.invars]
      found.collectives[kind] += times * len(sent)
      found.collective_bytes[kind] += times * sum(
        math.prod(a.shape) * a.dtype.itemsize for a in sent
      )
    repeats = times * eqn.params['length'] if name == 'scan' else times
    inner = [_counted(part, repeats) for part in _inner(eqn.params)]
    if name == 'cond':
      # One branch runs (here: the device's own form of an operation).
      inner = [max(inner, key=lambda branch: branch.macs)]
    for part in inner:
      found.macs += part.macs
      found.collectives.update(part.collectives)
      found.collective_bytes.update(part.collective_bytes)
  return found


def count(function: Any, *arguments: Any) -> Program:
  """Counts what a function computes and sends; it is only traced.

  Args:
    function: jitted or pmapped; inside of a pmapped one, counts are a device's.
    *arguments: arrays or `jax.ShapeDtypeStruct`s.
  """
  return _counted(jax.make_jaxpr(function)(*arguments).jaxpr)
