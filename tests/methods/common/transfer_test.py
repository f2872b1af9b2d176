import copy

import pytest
import tiny

from configs import abdomen, heart
from data import preparation
from data import split as splits
from data.phantoms import phantom
from data.task import HEART
from dbdc_jax import methods
from dbdc_jax.methods.common import transfer
from dbdc_jax.training import input_pipeline, scans, train
from dbdc_jax.workdir.metric_writer import read_rows

CASES = ('labeled', 'unlabeled')


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('transfer')
  roots = phantom.write(
    'heart', folder / 'scans', subjects=5, size='tiny', quiet=True
  )
  return preparation.prepare(
    HEART,
    HEART.modalities,
    roots,
    slice_size=32,
    roi='label',
    cache=str(folder / 'cache'),
    quiet=True,
  )


@pytest.fixture
def split(prepared):
  return splits.make(prepared.cases, seed=0, fold=0, labeled_fraction=0.4)


def _direction(full=False, source='mr', target='ct'):
  return transfer.Transfer(source, target, full, source)


@pytest.mark.parametrize('full', [False, True])
def test_the_target_has_no_labels_and_a_full_source_has_all(split, full):
  before = copy.deepcopy(split)
  found = _direction(full).split(split)
  assert split == before
  assert found['ct']['labeled'] == []
  for name in ('ct', 'mr'):
    training = lambda one, name=name: {
      *one[name][CASES[0]],
      *one[name][CASES[1]],
    }
    assert training(found) == training(before)
    for part in ('validation', 'test'):
      assert found[name][part] == before[name][part]
  if full:
    assert found['mr']['unlabeled'] == []
  else:
    assert found['mr'] == before['mr']
  assert _direction(full).split(found) == found


class _Guarded:
  """Prepared data that does not give away some cases' labels."""

  def __init__(self, prepared, secret):
    self._prepared, self._secret = prepared, secret

  def __getattr__(self, name):
    return getattr(self._prepared, name)

  def _guard(self, case):
    assert case.name not in self._secret, f'labels of {case.name} were read'

  def labels(self, case):
    self._guard(case)
    return self._prepared.labels(case)

  def label(self, case, position):
    self._guard(case)
    return self._prepared.label(case, position)


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('memory', [0.0, 1.0])
def test_no_training_label_of_the_target_is_ever_read(
  prepared, split, full, memory
):
  """They may be anything at all: whoever asks for one is stopped."""
  direction = _direction(full)
  secret = {*split['ct']['labeled'], *split['ct']['unlabeled']}
  guarded = _Guarded(prepared, secret)
  with pytest.raises(AssertionError, match='were read'):
    scans.present_classes(guarded, split, ('mr', 'ct'), 8)
  adapted = direction.split(split)
  present = scans.present_classes(guarded, adapted, direction.modalities, 8)
  assert present[0].any() and not present[1].any()
  batches = input_pipeline.Batches(
    guarded,
    adapted,
    direction.modalities,
    batch_size=4,
    own=range(4),
    seed=0,
    memory_limit_gib=memory,
    use_unlabeled=True,
  )
  assert batches.consistent.tolist() == [not full, True]
  cases = {case.name: case for case in prepared.cases}
  of_target = {
    image.tobytes() for name in secret for image in prepared.images(cases[name])
  }
  seen = set()
  for step in range(20):
    batch = batches.batch(step)
    assert batch['labeled']['label'][0].any()
    assert not batch['labeled']['label'][1].any()
    seen |= {image.tobytes() for image in batch['unlabeled']['image'][1]}
  # Its images are all there, those of scans that the split calls labelled too.
  assert seen == of_target


def test_a_split_is_adapted_saved_and_found_again(prepared, split, tmp_path):
  config, direction = heart.get_config('preset=tiny'), _direction()
  given = tmp_path / 'given.json'
  splits.save(split, str(given))
  config.data.split = str(given)
  choose = lambda resume: scans.choose_split(
    methods.resolve(config), prepared, tmp_path, resume, direction
  )
  first = choose(False)
  assert first == direction.split(split)
  assert choose(True) == first
  # A method without a direction would have nothing to learn CT from.
  with pytest.raises(ValueError, match='ct has no labeled scans'):
    splits.load(str(tmp_path / 'split.json'), prepared.cases)


def test_a_direction_is_named_or_that_of_the_modalities():
  config = heart.get_config('method=varda')
  of = lambda: transfer.of(config, selected_on=transfer.TARGET)
  assert of() == transfer.Transfer('ct', 'mr', False, 'mr')
  config.source, config.target = 'mr', 'ct'
  assert of().modalities == ('mr', 'ct') and of().selected_on == 'ct'
  # The run's modalities become these two, in this order.
  settled = of().settle(config)
  assert settled.modalities == 'mr,ct' and config.modalities == ''


@pytest.mark.parametrize(
  ('source', 'target'), [('ct', 'ct'), ('ct', ''), ('', 'ct'), ('ct', 'pet')]
)
def test_other_directions_are_refused(source, target):
  config = abdomen.get_config('method=varda')
  config.source, config.target = source, target
  with pytest.raises(ValueError, match='name both'):
    transfer.of(config, selected_on=transfer.TARGET)


def test_a_run_is_tested_on_its_target_and_chosen_on_its_source(
  cache, tmp_path, capsys
):
  """The published code chooses on the target's test set; nothing here does."""
  config = tiny.heart_config(cache, 'method=ram_dsir')
  config.source, config.target, config.epochs = 'mr', 'ct', 2
  results = train.train(config, str(tmp_path))
  assert list(results['modalities']) == ['ct']
  assert {case['modality'] for case in results['cases']} == {'ct'}
  run = results['run']
  assert (run['source'], run['target']) == ('mr', 'ct')
  assert run['labeled_scans']['ct'] == 0 < run['labeled_scans']['mr']
  # Nor does its validation say whose largest component is kept.
  (facts,) = run['networks'].values()
  chosen = facts['components']
  assert chosen['ct'] == chosen['mr'] and chosen['mr']['myocardium']['scans']
  rows = [r for r in read_rows(tmp_path) if 'validation_dice_mean' in r]
  assert rows
  for row in rows:
    assert row['validation_dice_mean'] == row['validation_dice/mr']
    assert row['train_dice/ct'] == 0
  # It has no training DSC, so none is said.
  printed = ''.join(capsys.readouterr())
  assert 'training DSC mr' in printed
  assert ', ct 0.0' not in printed
  # Nothing is left to do, and the split is the one that was saved.
  assert train.train(config, str(tmp_path)) == results
