"""What `import dbdc_jax` gives a program."""

import inspect
import os
import pathlib
import subprocess
import sys
import tomllib

import nibabel as nib
import numpy as np
import pytest

import dbdc_jax

ROOT = pathlib.Path(__file__).parents[1]
FUNCTIONS = ('load', 'prepare', 'score', 'train')


def _run(code):
  """What a fresh process says."""
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert not done.returncode, done.stderr
  return done.stdout.split()


def test_importing_loads_nothing_and_scoring_no_jax():
  heavy = "print(*{'jax', 'numpy', 'nibabel'} & sys.modules.keys(), '|')"
  said = _run(
    f'import sys, dbdc_jax; dir(dbdc_jax); dbdc_jax.__version__; {heavy};'
    f'dbdc_jax.score; dbdc_jax.prepare; {heavy}'
  )
  first, _, second = ' '.join(said).partition('|')
  assert not first and 'numpy' in second and 'jax' not in second.split()


@pytest.mark.parametrize('name', FUNCTIONS)
def test_each_function_is_the_one_that_the_commands_use(name):
  function = getattr(dbdc_jax, name)
  assert function.__name__ == name and function is getattr(dbdc_jax, name)
  assert '  Raises:' in function.__doc__
  signature = inspect.signature(function)
  assert all(p.annotation is not p.empty for p in signature.parameters.values())
  # None of them lies in a command, which would hide it.
  assert function.__module__ != f'dbdc_jax.{name}'


def test_names_are_listed_and_others_are_not_there():
  assert {*FUNCTIONS, '__version__'} == set(dbdc_jax.__all__)
  assert set(dbdc_jax.__all__) <= set(dir(dbdc_jax))
  with pytest.raises(AttributeError, match="no attribute 'lode'"):
    dbdc_jax.lode  # noqa: B018
  # A command of the same name would take its place once it is imported.
  commands = {path.stem for path in (ROOT / 'dbdc_jax').glob('*.py')}
  assert not commands & set(FUNCTIONS)


def test_its_types_are_installed():
  settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  files = settings['tool']['setuptools']['package-data']['dbdc_jax']
  assert 'py.typed' in files and (ROOT / 'dbdc_jax' / 'py.typed').exists()


def test_a_plain_script_may_score(tmp_path):
  folders = [str(tmp_path / name) for name in ('prediction', 'reference')]
  image = nib.Nifti1Image(np.eye(4, dtype=np.uint8)[None], np.eye(4))
  for folder in map(pathlib.Path, folders):
    folder.mkdir()
    for name in ('a', 'b', 'c'):
      nib.save(image, folder / f'{name}.nii.gz')
  script = tmp_path / 'script.py'
  script.write_text(
    f'import dbdc_jax\nfound = dbdc_jax.score(*{folders}, quiet=True)\n'
    "print(len(found.results['cases']), len(found.problems))\n"
  )
  done = subprocess.run(
    [sys.executable, str(script)],
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.stdout.split() == ['3', '0'], done.stderr
