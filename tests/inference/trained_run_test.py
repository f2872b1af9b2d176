import json
import shutil

import jax.numpy as jnp
import pytest

from data.task import HEART
from dbdc_jax.inference import trained_run


@pytest.fixture
def copy(trained, tmp_path):
  shutil.copytree(trained[0], tmp_path / 'run')
  return tmp_path / 'run'


def test_a_run_is_loaded_with_its_task_and_pixels(trained):
  workdir, *_ = trained
  run = trained_run.load(workdir)
  assert run.task == HEART
  assert [m.name for m in run.modalities] == ['ct', 'mr']
  record = json.loads((workdir / 'run.json').read_text())
  for name in ('ct', 'mr'):
    assert run.mm_per_pixel[name] == record['data'][name]['mm_per_pixel']
  assert [run.networks[n].place for n in ('ct', 'mr')] == [0, 1]
  assert run.networks['ct'].params is run.networks['mr'].params
  patch = jnp.zeros((1, 16, 16, 1))
  network = run.networks['mr']
  logits = network.method.predict(
    network.params, network.memory, patch, jnp.array([1])
  )
  assert logits.shape == (1, 16, 16, 8)
  with pytest.raises(ValueError, match='choose ct, mr'):
    run.modality('t2')


def test_the_workdir_alone_is_enough(copy):
  """Neither the data nor the place it was trained in is needed."""
  config = json.loads((copy / 'config.json').read_text())
  config['task'] = '/gone/dataset.json'
  (copy / 'config.json').write_text(json.dumps(config))
  assert trained_run.load(copy).task == HEART


def test_a_run_is_the_same_wherever_it_lies(copy, trained, ct_alone):
  run = trained_run.load(trained[0])
  assert trained_run.load(copy).identity == run.identity
  assert trained_run.load(ct_alone).identity != run.identity
  task = json.loads((copy / 'task.json').read_text())
  task['modalities']['ct']['intensity'] = {'upper_percentile': 99.0}
  (copy / 'task.json').write_text(json.dumps(task))
  assert trained_run.load(copy).identity != run.identity


@pytest.mark.parametrize('name', ['run.json', 'config.json', 'task.json'])
def test_a_damaged_record_is_named(copy, name):
  (copy / name).write_text('{')
  with pytest.raises(ValueError, match=name):
    trained_run.load(copy)


def test_damaged_weights_are_refused(copy):
  for step in (copy / 'checkpoints').iterdir():
    file = next(p for p in sorted(step.rglob('*')) if p.is_file())
    file.write_bytes(file.read_bytes() + b'x')
  with pytest.raises(ValueError, match='damaged'):
    trained_run.load(copy)


def test_a_run_without_checkpoints_is_refused(copy):
  shutil.rmtree(copy / 'checkpoints')
  with pytest.raises(ValueError, match='no checkpoint there'):
    trained_run.load(copy)


def _rewritten(path, change):
  found = json.loads(path.read_text())
  change(found)
  path.write_text(json.dumps(found))


def test_what_a_run_lacks_is_said(copy):
  assert trained_run.load(copy).doubts == ()
  # Gone on with, and stopped: the test is that of before.
  _rewritten(copy / 'config.json', lambda c: c.update(epochs=c['epochs'] + 3))
  stopped, old = trained_run.load(copy).doubts
  epochs = json.loads((copy / 'config.json').read_text())['epochs']
  assert stopped == f'training ended after {epochs - 3} of {epochs} epochs'
  assert old == f'its test is that of {epochs - 3} epochs'
  (copy / 'results.json').unlink()
  assert trained_run.load(copy).doubts[1].startswith('no test: ')
  # Of how far it came nothing is known then.
  (copy / 'metrics.jsonl').unlink()
  (untested,) = trained_run.load(copy).doubts
  assert untested.startswith('no test: ')
