"""A trained network that is given away, whole or one modality's rows of it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from dbdc_jax import export
from dbdc_jax.inference import (
  exported_model,
  exporting,
  stablehlo,
  trained_run,
)
from dbdc_jax.training import train
from dbdc_jax.workdir import export_folder

# Runs in a folder of its own: what is imported from here fails.
ALONE = """
import importlib.abc, pathlib, sys
class Nothing(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('configs', 'data', 'dbdc_jax', 'flax', 'orbax'):
      raise ImportError(f'{name} must not be needed')
sys.meta_path.insert(0, Nothing())
import numpy as np
sys.path.insert(0, sys.argv[1])
from load_network import load
images = np.load('images.npy')
for name in sys.argv[2:]:
  np.save(name + '.npy', load(name)(images))
assert not [m for m in sys.modules if m.split('.')[0] in ('dbdc_jax', 'flax')]
try:
  load('pet')
except ValueError as error:
  print(error)
"""


def _export(*arguments):
  return export.main([str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def whole(mr_added, tmp_path_factory):
  """The model of MR and CT, exported."""
  output = tmp_path_factory.mktemp('export') / 'deep' / 'model'
  assert _export('--run', mr_added, '--output', output) == 0
  return output


@pytest.fixture(scope='module')
def rows(mr_added, tmp_path_factory):
  """MR's rows of the banks, exported."""
  output = tmp_path_factory.mktemp('export') / 'rows'
  arguments = ('--modality', 'mr', '--output', output)
  assert _export('--run', mr_added, *arguments) == 0
  return output


@pytest.fixture
def images():
  """Any number of them, of any sides that divide by 8."""
  return np.random.default_rng(0).random((3, 24, 16, 1), np.float32)


def _logits(model, name, images):
  network = model.networks[name]
  ids = jnp.full(len(images), network.place, jnp.int32)
  predict = jax.jit(network.method.predict)
  return np.asarray(predict(network.params, network.memory, images, ids))


def _close(logits, wanted):
  """Equal to rounding: 1e-5 of the largest; XLA folds constant weights."""
  assert logits.shape == wanted.shape == (3, 24, 16, 8)
  assert np.abs(logits - wanted).max() <= 1e-5 * np.abs(wanted).max()


def _fit(folder):
  return json.loads((folder / 'fit.json').read_text())


def _learnt(model):
  return {n: (w.params, w.memory) for n, w in model.networks.items()}


def _alone(folder, names, images, tmp_path):
  """The logits of an export in a process that has jax and numpy only."""
  np.save(tmp_path / 'images.npy', images)
  environment = {
    k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'XLA_FLAGS')
  }
  # What is given away stays as it is.
  environment['PYTHONDONTWRITEBYTECODE'] = '1'
  done = subprocess.run(
    [sys.executable, '-c', ALONE, str(folder), *names],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "no modality 'pet'" in done.stdout
  return {name: np.load(tmp_path / f'{name}.npy') for name in names}


def test_an_export_is_loaded_as_its_run_is(mr_added, whole):
  run, model = trained_run.load(mr_added), trained_run.load(whole)
  # Results of either are results of both.
  assert model.identity == run.identity
  assert tiny.same(_learnt(model), _learnt(run))
  assert model.modalities == run.modalities and model.task == run.task
  assert model.mm_per_pixel == run.mm_per_pixel
  for name in ('method', 'model', 'augment', 'mpcl', 'modalities'):
    assert model.config[name] == run.config[name]
  for name in ('slice_size', 'roi'):
    assert model.config.data[name] == run.config.data[name]
  assert _fit(whole) == _fit(mr_added)
  assert set(run.components) == {'ct', 'mr'}
  assert model.components == run.components
  # Places of the machine that trained it.
  assert model.config.data.cache == model.config.init_from == ''


def test_the_network_runs_with_jax_alone(mr_added, whole, images, tmp_path):
  run = trained_run.load(mr_added)
  found = _alone(whole, ['ct', 'mr'], images, tmp_path)
  for name, logits in found.items():
    _close(logits, _logits(run, name, images))
  assert np.abs(found['ct'] - found['mr']).max() > 1e-3
  (network,) = json.loads((whole / 'model.json').read_text())['networks']
  assert network['platforms'] == list(stablehlo.PLATFORMS)
  # One file, with the weights in it.
  assert len(list(whole.glob('*.stablehlo'))) == 1


def test_the_description_holds_what_a_user_needs(mr_added, whole):
  model = json.loads((whole / 'model.json').read_text())
  results = json.loads((mr_added / 'results.json').read_text())
  record = json.loads((mr_added / 'run.json').read_text())
  assert model['classes'] == results['classes']
  assert model['test'] == results['modalities']
  assert model['data'] == record['data']
  assert model['trained_with']['packages'] == record['packages']
  ct = model['modalities']['ct']
  assert ct['label_codes']['myocardium'] == 205
  assert ct['intensity'] == {'upper_percentile': 98.0}
  assert ct['mm_per_pixel'] == record['data']['ct']['mm_per_pixel']
  assert model['preprocessing']['slice_size'] == 32
  assert (ct['plane'], ct['axes']) == ('axial', 'SPL')
  run = trained_run.load(mr_added)
  assert model['postprocessing'] == {
    'components': 'validation',
    'largest_component': {
      name: [model['classes'][index] for index in run.kept(name)]
      for name in ('ct', 'mr')
    },
  }
  files = {
    str(p.relative_to(whole)) for p in whole.rglob('*') if p.is_file()
  } - {'model.json'}
  assert set(model['files']) == files
  # No optimizer state, no scan, no pickle.
  assert not [f for f in files if 'opt_state' in f or f.endswith('.pkl')]


def test_an_export_of_an_export_is_the_same(whole, tmp_path):
  assert _export('--run', whole, '--output', tmp_path / 'again') == 0
  before, after = trained_run.load(whole), trained_run.load(tmp_path / 'again')
  assert tiny.same(_learnt(before), _learnt(after))
  one, two = (
    json.loads((folder / 'model.json').read_text())
    for folder in (whole, tmp_path / 'again')
  )
  for key in ('test', 'data', 'modalities', 'classes', 'networks'):
    assert one[key] == two[key]


def test_ct_alone_and_the_rows_of_mr_are_the_whole_network(
  ct_alone, mr_added, rows, images, tmp_path
):
  """The rows are a few numbers; the shared weights never leave."""
  assert sum(f.stat().st_size for f in rows.iterdir()) < 100_000
  shutil.copytree(ct_alone, tmp_path / 'ct')
  output = tmp_path / 'both'
  assert (
    _export('--run', tmp_path / 'ct', '--add', rows, '--output', output) == 0
  )
  run, model = trained_run.load(mr_added), trained_run.load(output)
  # Behind the others: CT first here, MR first there.
  assert [m.name for m in model.modalities] == ['ct', 'mr']
  assert model.modalities == run.modalities[::-1]
  assert model.mm_per_pixel == run.mm_per_pixel
  for name in ('ct', 'mr'):
    wanted = _logits(run, name, images)
    np.testing.assert_array_equal(_logits(model, name, images), wanted)
  said = json.loads((output / 'model.json').read_text())
  for name, source in (('ct', ct_alone), ('mr', mr_added)):
    results = json.loads((source / 'results.json').read_text())
    assert said['test'][name] == results['modalities'][name]
    assert _fit(output)[name] == _fit(source)[name]
    chosen = trained_run.load(source).components[name]
    assert model.components[name] == chosen
  # An export takes rows as a run does, once each.
  assert (
    _export('--run', output, '--add', rows, '--output', tmp_path / 'x') == 1
  )
  assert not (tmp_path / 'x').exists()


def test_rows_of_other_shared_weights_are_refused(ct_alone, mr_added, rows):
  """One bit of one weight is enough."""
  with pytest.raises(ValueError, match='the model has mr already'):
    exporting.add_rows(_model(mr_added), rows)
  model = _model(ct_alone)
  model.networks[0].weights.params['prototype_norm']['bias'] = np.nextafter(
    model.networks[0].weights.params['prototype_norm']['bias'], np.float32(9)
  )
  with pytest.raises(ValueError, match='other shared weights'):
    exporting.add_rows(model, rows)


def _model(folder):
  return exported_model.of_run(trained_run.load(folder))


def _flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


def _weights_file(folder):
  """The largest file of the weights."""
  files = (f for f in (folder / 'weights').rglob('*') if f.is_file())
  return max(files, key=lambda f: f.stat().st_size)


def _foreign(folder):
  (folder / 'model.json').write_text('{"format": "something else"}')


def _newer(folder):
  content = json.loads((folder / 'model.json').read_text())
  (folder / 'model.json').write_text(json.dumps(content | {'version': 2}))


def _swapped(folder):
  content = json.loads((folder / 'model.json').read_text())
  content['classes'].reverse()
  (folder / 'model.json').write_text(json.dumps(content))


@pytest.mark.parametrize(
  ('harm', 'part'),
  [
    (lambda f: _flip(_weights_file(f)), r'weights/.* is damaged'),
    (lambda f: _flip(f / 'network.stablehlo'), r'stablehlo is damaged'),
    (lambda f: _weights_file(f).unlink(), r'weights/.* is not whole'),
    (lambda f: (f / 'model.json').unlink(), r'model.json is missing'),
    (lambda f: (f / 'model.json').write_text('{'), r'model.json is not read'),
    (_foreign, r'model.json is something else'),
    (_newer, r'format version 2'),
    (_swapped, r'model.json is damaged'),
  ],
)
def test_what_is_damaged_foreign_or_cut_short_is_refused(
  whole, tmp_path, harm, part
):
  shutil.copytree(whole, tmp_path / 'model')
  harm(tmp_path / 'model')
  with pytest.raises(ValueError, match=part):
    trained_run.load(tmp_path / 'model')


def test_damaged_rows_are_refused(ct_alone, rows, tmp_path):
  shutil.copytree(rows, tmp_path / 'rows')
  _flip(tmp_path / 'rows' / 'rows.npz')
  with pytest.raises(ValueError, match=r'rows.npz is damaged'):
    exporting.add_rows(_model(ct_alone), tmp_path / 'rows')
  with pytest.raises(ValueError, match=r'run.json: not readable'):
    trained_run.load(rows)


def test_an_export_appears_whole_or_not_at_all(
  mr_added, tmp_path, monkeypatch, capsys
):
  output = tmp_path / 'model'

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(stablehlo, 'write_loader', full)
  assert _export('--run', mr_added, '--output', output) == 1
  assert not list(tmp_path.iterdir())
  monkeypatch.undo()
  # What is there stays, unless it is an export and may go.
  output.mkdir()
  (output / 'thesis.txt').write_text('mine')
  for arguments in ((), ('--overwrite',)):
    assert _export('--run', mr_added, '--output', output, *arguments) == 1
  err = capsys.readouterr().err
  assert 'there already' in err and 'not an export' in err
  assert [f.name for f in output.iterdir()] == ['thesis.txt']


def test_what_must_stay_is_known_before_anything_is_computed(
  mr_added, rows, whole, monkeypatch, capsys
):
  monkeypatch.setattr(trained_run, 'load', lambda _: pytest.fail('computed'))
  for source, output, more in (
    (mr_added, mr_added, ()),
    (mr_added, mr_added / 'exported', ()),
    (mr_added, rows, ('--add', rows)),
    (mr_added, whole.parent, ()),
    (whole, whole, ('--modality', 'mr')),
    (mr_added, whole / 'rows', ('--modality', 'mr')),
  ):
    arguments = ('--run', source, '--output', output, '--overwrite', *more)
    assert _export(*arguments) == 1
    assert 'choose another --output' in capsys.readouterr().err
  export_folder.read(whole, export_folder.MODEL)
  export_folder.read(rows, export_folder.ROWS)


def test_overwrite_replaces_an_export(mr_added, tmp_path):
  arguments = (
    '--run',
    mr_added,
    '--modality',
    'mr',
    '--output',
    tmp_path / 'x',
  )
  assert _export(*arguments) == 0
  (tmp_path / 'x' / 'rows.npz').unlink()
  assert _export(*arguments) == 1
  assert _export(*arguments, '--overwrite') == 0
  assert (
    export_folder.read(tmp_path / 'x', export_folder.ROWS)['modality'] == 'mr'
  )
  assert [f.name for f in tmp_path.iterdir()] == ['x']


def test_an_export_is_a_start_for_training(whole, mr_added, cache, tmp_path):
  config = tiny.heart_config(cache, 'recipe=plus')
  fields = {'epochs': 1, 'batch_size': 8, 'optimizer.learning_rate': 0.0}
  config.update_from_flattened_dict({**fields, 'init_from': str(whole)})
  train.train(config, tmp_path)
  learnt = trained_run.load(tmp_path).networks['ct'].params
  wanted = trained_run.load(mr_added).networks['ct'].params
  # CT is the first row here, and the second there.
  flip = lambda x: x[::-1] if x.ndim == 2 and x.shape[0] == 2 else x
  found, wanted = (
    dict(jax.tree_util.tree_leaves_with_path(p)) for p in (learnt, wanted)
  )
  for path, value in wanted.items():
    rows_of = 'modulation' in jax.tree_util.keystr(path)
    assert np.array_equal(found[path], flip(value) if rows_of else value)


def test_each_modality_may_have_its_own_network(
  cache, images, tmp_path, capsys
):
  config = tiny.heart_config(cache, 'method=supervised')
  config.epochs = 1
  train.train(config, tmp_path / 'run')
  output = tmp_path / 'model'
  assert _export('--run', tmp_path / 'run', '--output', output) == 0
  run, model = trained_run.load(tmp_path / 'run'), trained_run.load(output)
  assert tiny.same(_learnt(model), _learnt(run))
  (tmp_path / 'alone').mkdir()
  found = _alone(output, ['ct', 'mr'], images, tmp_path / 'alone')
  for name, logits in found.items():
    _close(logits, _logits(run, name, images))
  arguments = ('--modality', 'ct', '--output', tmp_path / 'rows')
  assert _export('--run', tmp_path / 'run', *arguments) == 1
  assert 'without banks' in capsys.readouterr().err


def test_the_command_says_what_is_wrong(tmp_path, mr_added):
  command = [sys.executable, '-m', 'dbdc_jax.export']
  root = pathlib.Path(__file__).parents[1]
  for arguments, code, part in (
    (['--run', str(tmp_path)], 2, '--output'),
    (['--run', f'{tmp_path}/r', f'--output={tmp_path}/o'], 1, 'run.json'),
    (
      ['--run', str(mr_added), '--modality=pet', f'--output={tmp_path}/o'],
      1,
      "not trained on modality 'pet'",
    ),
  ):
    done = subprocess.run(
      [*command, *arguments], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == code and part in done.stderr, done.stderr
    assert 'Traceback' not in done.stderr
  assert not list(tmp_path.iterdir())
