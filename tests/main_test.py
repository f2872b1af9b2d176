"""The command as it is typed, in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs import heart
from configs import saved as saved_config
from dbdc_jax.workdir import run_record

ROOT = pathlib.Path(__file__).parents[1]
TINY = {
  'data.slice_size': 32,
  'phantom.size': 'tiny',
  'phantom.subjects': 3,
  'model.width': 2,
  'model.embedding_dim': 8,
  'augment.patch_size': 16,
  'batch_size': 4,
  'epochs': 1,
  'evaluation.overlays': 1,
}


def _run(*arguments, cwd=ROOT, **fields):
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  return subprocess.run(
    [sys.executable, '-m', 'dbdc_jax.main', *arguments, *flags],
    cwd=cwd,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )


def test_a_subset_of_modalities_is_trained_and_tested(tmp_path):
  done = _run(
    '--config',
    'configs/abdomen.py',
    '--config.modalities=ct,t2',
    '--workdir',
    str(tmp_path / 'run'),
    **TINY,
    **{'data.cache': tmp_path / 'cache'},
  )
  assert done.returncode == 0, done.stderr
  for part in ('4 structures', 'phantom', 'CT', 'T2', 'devices: 4 x cpu'):
    assert part in done.stdout
  assert 'T1' not in done.stdout
  assert 'min left' in done.stderr
  assert str(tmp_path / 'run') in done.stdout.splitlines()[-1]
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert list(results['modalities']) == ['ct', 't2']


def test_the_config_that_a_run_saved_is_read_as_data(tmp_path):
  saved = heart.get_config('method=supervised')
  saved.epochs, saved.optimizer.learning_rate = 7, 1.0
  run_record.write_json(tmp_path / 'config.json', saved.to_dict())
  read = ['--config', str(tmp_path / 'config.json')]
  # Refused before anything is prepared, and that tells the settings.
  done = _run(*read, eval_only='true', **{'batch_size': 5})
  assert done.returncode == 1 and 'batch_size=5 per modality' in done.stderr
  code = 'import os; os.abort()'
  for text, part in (
    ('{"epochs": 7', 'not a readable config'),
    (json.dumps({'epoch': 7}), "no field 'epoch'"),
    (json.dumps({'epochs': code}), 'must be of type int'),
    (json.dumps({'model': {'width': [8]}}), 'must be of type int'),
    (json.dumps([1]), 'must hold fields'),
    (code, 'not a readable config'),
  ):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=part):
      saved_config.get_config(str(tmp_path / 'config.json'))
  done = _run(*read)
  assert done.returncode == 2 and 'not a readable config' in done.stderr
  assert 'Traceback' not in done.stderr


def test_a_saved_config_comes_back_equal(tmp_path):
  config = heart.get_config('method=supervised')
  config.epochs, config.optimizer.learning_rate = 7, 1.0
  run_record.write_json(tmp_path / 'config.json', config.to_dict())
  read = saved_config.get_config(str(tmp_path / 'config.json'))
  assert read.to_dict() == config.to_dict()


def test_bad_names_and_fields_say_what_there_is(tmp_path):
  config = ('--config', 'configs/abdomen.py', '--workdir', str(tmp_path / 'r'))
  for names, part in (('ct,pet', 'unknown modality'), ('ct,ct', 'repeated')):
    done = _run(*config, modalities=names)
    assert done.returncode == 1
    assert part in done.stderr and 'Traceback' not in done.stderr
  done = _run(*config, **{'mpcl.detla': 1})
  assert done.returncode == 2 and "no field 'detla'" in done.stderr
  assert not (tmp_path / 'r').exists()


@pytest.mark.parametrize('name', ['heart', 'configs', 'runs/x/config.json'])
def test_a_wrong_config_is_one_line_with_the_names_there_are(name):
  done = _run(f'--config={name}', epochs=3)
  assert done.returncode == 2 and not done.stdout
  (line,) = done.stderr.splitlines()
  assert f'no file {name}: give configs/abdomen.py, ' in line
  assert "a run's config.json" in line and 'saved.py' not in line


def test_a_config_that_lies_elsewhere_is_named_by_its_whole_path(tmp_path):
  done = _run('--config=configs/heart.py', cwd=tmp_path)
  assert done.returncode == 2
  assert f'give {ROOT / "configs" / "abdomen.py"}, ' in done.stderr
  done = _run('--config=')
  assert done.returncode == 2 and 'it names no file: give' in done.stderr


def test_without_a_config_the_help_is_shown():
  done = _run()
  assert done.returncode == 2
  assert 'configs/heart.py' in done.stderr


def test_bad_scans_are_one_table_and_an_exit_code(tmp_path):
  folder = tmp_path / 'scans' / 'ct_train'
  folder.mkdir(parents=True)
  for number in (1001, 1002):
    name = f'ct_train_{number}_image.nii.gz'
    (folder / name).write_bytes(b'no scan')
    (folder / name.replace('image', 'label')).write_bytes(b'')
  done = _run(
    '--config',
    f'configs/heart.py:scans={tmp_path / "scans"}',
    '--workdir',
    str(tmp_path / 'run'),
    modalities='ct',
    **{'data.cache': tmp_path / 'cache'},
  )
  assert done.returncode == 1
  assert 'file | reason | remedy' in done.stderr
  assert '1001' in done.stderr and '1002' in done.stderr
  assert 'Traceback' not in done.stderr
  assert not [f for f in os.listdir(tmp_path / 'cache') if 'partial' in f]
