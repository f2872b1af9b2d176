"""Runs that start from another run's weights, and those that add to them."""

import copy
import json
import types

import jax
import numpy as np
import pytest
import tiny

from dbdc_jax import methods
from dbdc_jax.inference import trained_run
from dbdc_jax.models import bank_rows
from dbdc_jax.training import train, warm_start
from dbdc_jax.workdir import checkpoint


def _named(tree):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _best(workdir):
  """A run's best weights: parameters and memory by name."""
  network = next(iter(trained_run.load(workdir).networks.values()))
  return _named(jax.device_get((network.params, network.memory)))


def test_all_that_ct_had_learnt_keeps_its_bits(ct_alone, mr_added):
  old, new = _best(ct_alone), _best(mr_added)
  assert old.keys() == new.keys()
  moved = set()
  for name, before in old.items():
    if {'modulation', 'prototypes'} & set(name.split('/')):
      # CT is the second row now.
      assert np.array_equal(new[name][1:], before), name
      if not np.array_equal(new[name][:1], before):
        moved.add(name.split('/')[-1])
    else:
      assert np.array_equal(new[name], before), name
  # MR has rows of its own, statistics and prototypes too.
  assert {'scale', 'bias', 'mean', 'var', 'bank'} <= moved
  (ready,) = (x for n, x in new.items() if n.endswith('ready'))
  assert ready.all()


def test_the_optimizer_remembers_nothing_of_what_stays(mr_added):
  state = checkpoint.read(mr_added)
  for name, value in _named(state['opt_state']).items():
    if 'modulation' in name.split('/'):
      assert not value[1].any() and value[0].any(), name
    elif not name.endswith('count'):
      assert not value.any(), name


def test_a_new_row_starts_between_the_old_ones(ct_alone, adding, tmp_path):
  config = copy.deepcopy(adding)
  config.optimizer.learning_rate, config.epochs = 0.0, 1
  train.train(config, tmp_path)
  old, new = _best(ct_alone), _best(tmp_path)
  for name, before in old.items():
    # A teacher's rows have already followed the network's.
    mine = 'modulation' in name and 'teacher' not in name
    if mine and name.split('/')[-1] in ('scale', 'bias'):
      assert np.array_equal(new[name], np.repeat(before, 2, 0)), name


def test_ct_is_segmented_to_the_same_bits(ct_alone, mr_added, adding):
  old, new = trained_run.load(ct_alone), trained_run.load(mr_added)
  rng = np.random.default_rng(0)
  images = rng.random((3, 16, 16, 1), np.float32)

  def logits(method, params, memory, index):
    ids = np.full(len(images), index, np.int32)
    return np.asarray(jax.jit(method.predict)(params, memory, images, ids))

  ct = old.networks['ct']
  method = methods.build(adding)
  fresh = jax.device_get(jax.jit(method.init)(jax.random.key(0)))
  start = [
    bank_rows.spread(jax.device_get(mine), theirs, [1])
    for mine, theirs in zip((ct.params, ct.memory), fresh, strict=True)
  ]
  before = logits(method, *start, 1)
  assert np.array_equal(logits(*new.networks['ct']), before)
  # Another program, with one modality: equal to rounding.
  np.testing.assert_allclose(logits(*ct), before, atol=1e-5)
  assert np.abs(logits(*new.networks['mr']) - logits(method, *start, 0)).max()


def test_a_stopped_run_goes_on_without_the_other_one(
  mr_added, adding, tmp_path
):
  """What is new was decided when the run began."""

  class Stopped(Exception):  # noqa: N818
    pass

  def stop(row):
    if row['epoch'] == 1:
      raise Stopped

  with pytest.raises(Stopped):
    train.train(adding, tmp_path, stop)
  config = copy.deepcopy(adding)
  config.init_from = ''
  train.train(config, tmp_path)
  assert tiny.same(checkpoint.read(tmp_path), checkpoint.read(mr_added))
  config.train_only = ''
  with pytest.raises(ValueError, match=r"train_only: 'banks' -> ''"):
    train.train(config, tmp_path)


def test_the_banner_says_what_is_trained(adding):
  init = methods.build(adding).init
  params, memory = jax.eval_shape(init, jax.random.key(0))
  state = types.SimpleNamespace(params=params, memory=memory)
  run = types.SimpleNamespace(
    modalities=('mr', 'ct'), trained=np.array([True, False])
  )
  (line,) = warm_start.banner_lines(run, state)
  assert 'everything but the rows of mr' in line
  # Width 2: a sixteenth of 4,864; 8 classes of length 8.
  assert '304 parameters and 64 values of prototypes' in line
  run.trained = None
  assert warm_start.banner_lines(run, state) == []


@pytest.mark.parametrize(
  ('fields', 'part'),
  [
    ({'train_only': 'bank'}, "choose banks, or ''"),
    ({'init_from': ''}, 'give --config.init_from'),
    ({'method': 'supervised'}, 'network per modality'),
    ({'model.modulation': 'encoder'}, 'would change for all'),
    ({'modalities': 'ct'}, 'name a new one'),
    ({'modalities': 'mr'}, 'trained on ct too'),
    ({'init_from': 'nowhere'}, 'no readable run.json'),
    ({'method': 'supervised', 'train_only': ''}, 'no network of mr'),
  ],
)
def test_what_does_not_fit_is_refused(adding, tmp_path, fields, part):
  config = copy.deepcopy(adding)
  if 'method' in fields:
    config.recipe = 'dbdc'
  config.update_from_flattened_dict(fields)
  with pytest.raises(ValueError, match=part):
    train.train(config, tmp_path / 'run')


def test_other_classes_are_refused(ct_alone, adding, tmp_path):
  record = json.loads((ct_alone / 'run.json').read_text())
  record['classes'][1] = 'liver'
  (tmp_path / 'run.json').write_text(json.dumps(record))
  config = copy.deepcopy(adding)
  config.init_from = str(tmp_path)
  with pytest.raises(ValueError, match=r'classes background, liver.*no start'):
    train.train(config, tmp_path / 'run')
