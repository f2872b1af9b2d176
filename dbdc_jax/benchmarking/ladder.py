"""Which sizes a step may have, and the largest of them that fits."""

from collections.abc import Callable
import math
from typing import NamedTuple

# Fewer steps do not teach what finer slices show.
_ENOUGH_STEPS = 1500


class Sizes(NamedTuple):
  """What costs time and memory.

  Attributes:
    slice_size: side of the slices, in pixels.
    patch: side of the training crops, in pixels.
    width: channels of the first convolution.
    batch: labelled slices of a modality and step.
    rate: the first learning rate that goes with them.
  """

  slice_size: int
  patch: int
  width: int
  batch: int
  rate: float

  @property
  def work(self) -> int:
    """What a step's time is about in proportion to."""
    return self.batch * (self.patch * self.width) ** 2


# The paper's last.
LADDER = (
  Sizes(40, 32, 6, 2, 3e-3),
  Sizes(64, 48, 8, 4, 2e-3),
  Sizes(96, 64, 12, 4, 1.5e-3),
  Sizes(128, 80, 16, 8, 1e-3),
  Sizes(192, 96, 24, 8, 5e-4),
  Sizes(256, 128, 32, 8, 2e-4),
)


class Measured(NamedTuple):
  """A step, as timed.

  Attributes:
    seconds: that it takes.
    fits: whether the device's memory holds it.
  """

  seconds: float
  fits: bool


class Choice(NamedTuple):
  """What was chosen.

  Attributes:
    sizes: of the ladder, no finer than the scans.
    steps: that the time is enough for, of each network; None: no limit.
    seconds: a step's.
    why: no larger sizes were.
  """

  sizes: Sizes
  steps: int | None
  seconds: float
  why: str


def of(native: int) -> list[Sizes]:
  """The sizes that scans of so many pixels a side can make use of.

  Args:
    native: the longer side of their slices, see `Task.slice_size`.
  """
  found = [sizes for sizes in LADDER if sizes.slice_size < native]
  top = LADDER[len(found)] if len(found) < len(LADDER) else LADDER[-1]
  side = min(native, top.slice_size) // 8 * 8
  last = top._replace(slice_size=side, patch=min(top.patch, side))
  return [*found, last] if found[-1:] != [last] else found


def choose(
  rungs: list[Sizes],
  measure: Callable[[Sizes], Measured],
  seconds: float | None,
  first: int,
) -> Choice:
  """The largest sizes that fit the memory and the time.

  Args:
    rungs: the sizes in question, smallest first.
    measure: times a step; each call compiles one.
    seconds: that all steps of a network may take; None: any.
    first: the rung that is measured first.

  Raises:
    ValueError: none fits the memory.
  """
  found: dict[int, Measured] = {}

  def fits(index: int) -> bool:
    if index not in found:
      found[index] = measure(rungs[index])
    enough = seconds is None or (
      seconds >= _ENOUGH_STEPS * found[index].seconds
    )
    return found[index].fits and enough

  at = first
  if fits(at):
    # How far up, by what larger steps would take; then as they do take.
    each = found[at].seconds / rungs[at].work
    above = range(at + 1, len(rungs))
    hopeful = [
      i
      for i in above
      if seconds is None or seconds >= _ENOUGH_STEPS * each * rungs[i].work
    ]
    at = next((i for i in reversed(hopeful) if fits(i)), at)
  else:
    at = next((i for i in reversed(range(at)) if fits(i)), 0)
    if at not in found:
      found[at] = measure(rungs[at])
  if not found[at].fits:
    raise ValueError(
      'no step fits the memory of the device, not of slices of'
      f' {rungs[at].slice_size} pixels: is another program using it?'
    )
  each = found[at].seconds
  steps_ = None if seconds is None else max(1, int(seconds / each))
  return Choice(rungs[at], steps_, each, _why(rungs, at, found, seconds))


def _why(
  rungs: list[Sizes],
  at: int,
  found: dict[int, Measured],
  seconds: float | None,
) -> str:
  """Why a rung was chosen and not the next one."""
  each = found[at].seconds
  if seconds is not None and seconds < _ENOUGH_STEPS * each:
    minutes = _ENOUGH_STEPS * each / 60
    return (
      f'the smallest sizes, and yet {int(seconds / each):,} steps of'
      f' {_ENOUGH_STEPS:,} that learning takes: give {math.ceil(minutes)}'
      ' minutes or more'
    )
  if at == len(rungs) - 1:
    return 'the scans show no more, or the paper has no larger sizes'
  above, known = rungs[at + 1], found.get(at + 1)
  larger = f'slices of {above.slice_size} pixels, width {above.width},'
  if seconds is None or (known and not known.fits):
    return f"{larger} do not fit the device's memory"
  would = known.seconds if known else each * above.work / rungs[at].work
  return (
    f'{larger} would leave time for {int(seconds / would):,} steps;'
    f' {_ENOUGH_STEPS:,} are wanted'
  )
