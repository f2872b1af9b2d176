import math

import pytest

from dbdc_jax.benchmarking import ladder
from dbdc_jax.benchmarking.ladder import LADDER, Measured


def _device(per_work, limit=math.inf):
  """A device that is so fast, and holds steps up to this much work.

  Returns:
    What measures there, and the widths that were measured.
  """
  seen = []

  def measure(sizes):
    seen.append(sizes.width)
    return Measured(per_work * sizes.work, sizes.work <= limit)

  return measure, seen


def test_scans_end_the_ladder():
  assert ladder.of(512) == list(LADDER)
  assert ladder.of(256) == list(LADDER)
  rungs = ladder.of(100)
  assert [s.slice_size for s in rungs] == [40, 64, 96, 96]
  # Finer than the scans nothing is; the network may grow.
  assert rungs[-1].width == LADDER[3].width and rungs[-1].patch == 80
  small = ladder.of(32)
  assert [(s.slice_size, s.patch) for s in small] == [(32, 32)]
  for native in range(16, 600, 8):
    rungs = ladder.of(native)
    assert len({*rungs}) == len(rungs) and rungs
    for sizes in rungs:
      assert sizes.patch <= sizes.slice_size <= native
      assert sizes.patch % 8 == sizes.slice_size % 8 == 0
    assert sorted(s.work for s in rungs) == [s.work for s in rungs]


@pytest.mark.parametrize('first', range(len(LADDER)))
@pytest.mark.parametrize('best', range(len(LADDER)))
def test_the_largest_that_takes_enough_steps_is_found(first, best):
  """From wherever it begins; here time goes as the work."""
  measure, seen = _device(1e-6)
  seconds = 1500 * 1e-6 * LADDER[best].work
  found = ladder.choose(list(LADDER), measure, seconds, first)
  assert found.sizes == LADDER[best] and found.steps == 1500
  assert found.seconds == 1e-6 * LADDER[best].work
  why = 'the scans show no more'
  if best + 1 < len(LADDER):
    steps = 1500 * LADDER[best].work // LADDER[best + 1].work
    why = f'would leave time for {steps:,} steps; 1,500 are wanted'
  assert why in found.why
  # Upwards by what is to be expected: each measurement compiles a step.
  assert len(seen) <= max(2, first - best + 1)


def test_memory_ends_it_too():
  measure, _ = _device(1e-9, limit=LADDER[3].work)
  for first in range(len(LADDER)):
    found = ladder.choose(list(LADDER), measure, None, first)
    assert found.sizes == LADDER[3] and found.steps is None
    assert "192 pixels, width 24, do not fit the device's memory" in found.why
  measure, _ = _device(1e-9, limit=1)
  for seconds in (None, 1e6):
    with pytest.raises(ValueError, match='no step fits the memory'):
      ladder.choose(list(LADDER), measure, seconds, 2)


def test_where_nothing_takes_enough_steps_the_smallest_takes_what_it_can():
  measure, seen = _device(1.0)
  found = ladder.choose(list(LADDER), measure, 3 * LADDER[0].work, 2)
  assert found.sizes == LADDER[0] and found.steps == 3
  assert len(seen) == 3
  minutes = math.ceil(1500 * LADDER[0].work / 60)
  assert '3 steps of 1,500' in found.why
  assert f'give {minutes} minutes or more' in found.why
  assert ladder.choose(list(LADDER), measure, 1.0, 0).steps == 1


def test_larger_steps_that_take_longer_than_expected_are_not_taken():
  def measure(sizes):
    return Measured(sizes.work * (100 if sizes.width > 8 else 1), True)

  seconds = 1500.0 * LADDER[4].work
  found = ladder.choose(list(LADDER), measure, seconds, 1)
  assert found.sizes == LADDER[1]
