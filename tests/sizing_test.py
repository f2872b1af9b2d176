import math

import ml_collections
import own_scans
import pytest

from configs import common, folder, presets
from dbdc_jax import sizing
from dbdc_jax.sizing import LADDER, Measured
from dbdc_jax.workdir import run_record


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
  assert sizing.ladder(512) == list(LADDER)
  assert sizing.ladder(256) == list(LADDER)
  rungs = sizing.ladder(100)
  assert [s.slice_size for s in rungs] == [40, 64, 96, 96]
  # Finer than the scans nothing is; the network may grow.
  assert rungs[-1].width == LADDER[3].width and rungs[-1].patch == 80
  small = sizing.ladder(32)
  assert [(s.slice_size, s.patch) for s in small] == [(32, 32)]
  for native in range(16, 600, 8):
    rungs = sizing.ladder(native)
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
  found = sizing.choose(list(LADDER), measure, seconds, first)
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
    found = sizing.choose(list(LADDER), measure, None, first)
    assert found.sizes == LADDER[3] and found.steps is None
    assert "192 pixels, width 24, do not fit the device's memory" in found.why
  measure, _ = _device(1e-9, limit=1)
  for seconds in (None, 1e6):
    with pytest.raises(ValueError, match='no step fits the memory'):
      sizing.choose(list(LADDER), measure, seconds, 2)


def test_where_nothing_takes_enough_steps_the_smallest_takes_what_it_can():
  measure, seen = _device(1.0)
  found = sizing.choose(list(LADDER), measure, 3 * LADDER[0].work, 2)
  assert found.sizes == LADDER[0] and found.steps == 3
  assert len(seen) == 3
  minutes = math.ceil(1500 * LADDER[0].work / 60)
  assert '3 steps of 1,500' in found.why
  assert f'give {minutes} minutes or more' in found.why
  assert sizing.choose(list(LADDER), measure, 1.0, 0).steps == 1


def test_larger_steps_that_take_longer_than_expected_are_not_taken():
  def measure(sizes):
    return Measured(sizes.work * (100 if sizes.width > 8 else 1), True)

  seconds = 1500.0 * LADDER[4].work
  found = sizing.choose(list(LADDER), measure, seconds, 1)
  assert found.sizes == LADDER[1]


def test_what_the_user_sets_is_not_open():
  config = common.base()
  presets.choose(config, 'auto')
  assert presets.left_open(config) == [*presets.OPEN]
  config.epochs = 3
  config.model.width = 10
  left = presets.left_open(config)
  assert {*presets.OPEN} - {*left} == {'epochs', 'model.width'}
  # Each field is one of a config's, and no other preset leaves any open.
  for name in ('paper', 'quick', 'tiny'):
    config = common.base()
    config.data.slice_size = 64
    presets.choose(config, name)
    assert presets.left_open(config) == []


def test_minutes_without_open_fields_are_refused(tmp_path):
  config = ml_collections.ConfigDict(common.base())
  config.data.slice_size = 64
  assert sizing.settle(config, tmp_path) is config
  config.minutes = 5.0
  with pytest.raises(ValueError, match=r'minutes=5: .*preset=auto'):
    sizing.settle(config, tmp_path)


def _second(config):
  """A device that takes a second for each step, however large."""
  assert not presets.left_open(config)
  return Measured(1.0, fits=True)


@pytest.fixture
def own(cache, tmp_path):
  """A config of own scans, of 5 + 5 patients and 32 pixels."""
  place = tmp_path / 'scans'
  own_scans.write(place, cache)
  config = folder.get_config(f'scans={place}')
  config.data.cache = str(cache)
  return config


def test_epochs_fill_the_minutes(own, tmp_path, capsys):
  found = {}
  for minutes in (0.1, 10.0, 1000.0):
    own.minutes = minutes
    found[minutes] = sizing.settle(own, tmp_path / 'run', _second)
  assert not presets.left_open(found[0.1]) and presets.left_open(own)
  assert found[0.1].epochs == 1  # There is no less.
  said = capsys.readouterr().out
  for minutes in (10.0, 1000.0):
    config = found[minutes]
    each = int(said.split(f'{config.epochs} epochs of ')[1].split()[0])
    steps = 60 * minutes / 1.15
    assert config.epochs * each <= steps < (config.epochs + 1) * each
  assert (found[0.1].dc.ramp, config.dc.ramp) == ('constant', 'gaussian')
  assert config.data.slice_size == 32 and config.minutes == 0
  # Nothing is written before the run begins.
  assert not (tmp_path / 'run').exists()


def test_fields_that_are_set_hold(own, tmp_path):
  own.minutes, own.epochs, own.batch_size, own.model.width = 5.0, 2, 3, 4
  seen = []

  def measure(config):
    seen.append((config.batch_size, config.model.width))
    return Measured(1.0, fits=True)

  config = sizing.settle(own, tmp_path, measure)
  assert (config.epochs, config.batch_size, config.model.width) == (2, 3, 4)
  assert {*seen} == {(3, 4)}


def test_networks_of_their_own_share_the_minutes(own, tmp_path):
  own.minutes = 20.0
  joint = sizing.settle(own, tmp_path, _second)
  own.method = 'supervised'
  each = sizing.settle(own, tmp_path, _second)
  assert joint.batch_size == each.batch_size
  assert joint.epochs // 2 == each.epochs > 1


def test_a_run_that_goes_on_keeps_its_sizes(own, tmp_path):
  own.minutes = 10.0
  first = sizing.settle(own, tmp_path, _second)
  run_record.write_json(tmp_path / 'config.json', first.to_dict())
  (tmp_path / 'checkpoints' / '1').mkdir(parents=True)
  own.minutes = 99.0

  def refuse(config):
    raise AssertionError('nothing is to be measured')

  assert sizing.settle(own, tmp_path, refuse).to_dict() == first.to_dict()
  # More epochs than the minutes gave are for the user to say.
  own.epochs = first.epochs + 1
  again = sizing.settle(own, tmp_path, refuse)
  assert again.epochs == first.epochs + 1
  assert again.model.width == first.model.width
