import ml_collections
import own_scans
import pytest

from configs import common, folder, presets
from dbdc_jax import sizing
from dbdc_jax.benchmarking.ladder import Measured
from dbdc_jax.workdir import run_record


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
