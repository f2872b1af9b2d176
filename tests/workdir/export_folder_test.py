"""What an export may replace: an export. With folders that are written."""

import os
import shutil

import pytest

from data.files import atomic
from dbdc_jax.workdir import export_folder


def _bytes(folder):
  """Every file below a folder, and where each link leads."""
  files = list(folder.rglob('*'))
  links = {path: path.readlink() for path in files if path.is_symlink()}
  return links | {path: path.read_bytes() for path in files if path.is_file()}


def _make(folder, content, overwrite=False, sources=()):
  with export_folder.making(folder, overwrite, sources) as partial:
    (partial / 'weights').mkdir()
    (partial / 'weights' / 'data').write_text(content)
    export_folder.describe(partial, export_folder.MODEL, {'content': content})


def _content(folder):
  return export_folder.read(folder, export_folder.MODEL)['content']


@pytest.fixture
def place(tmp_path):
  """A run, exports, scans, and links to them."""
  run = tmp_path / 'run'
  (run / 'checkpoints').mkdir(parents=True)
  for name in ('run.json', 'config.json'):
    (run / name).write_text('{}')
  (tmp_path / 'scans').mkdir()
  (tmp_path / 'scans' / 'a.nii.gz').write_bytes(b'the only copy')
  # Another program's description is no export's.
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'model.json').write_text('{"format": "layers-model"}')
  (tmp_path / 'torn').mkdir()
  (tmp_path / 'torn' / 'model.json').write_text('{"format": "dbdc_jax mo')
  _make(tmp_path / 'model', 'old')
  _make(tmp_path / 'mixed', 'old')
  (tmp_path / 'mixed' / 'predictions').mkdir()
  (tmp_path / 'mixed' / 'predictions' / 'a.nii.gz').write_bytes(b'mine')
  _make(tmp_path / 'moved', 'old')
  shutil.rmtree(tmp_path / 'moved' / 'weights')
  (tmp_path / 'moved' / 'weights').symlink_to(tmp_path / 'scans')
  for name in ('run', 'scans', 'model'):
    (tmp_path / f'link_{name}').symlink_to(tmp_path / name)
  (tmp_path / 'file').write_text('mine')
  return tmp_path


@pytest.mark.parametrize(
  ('output', 'said'),
  [
    ('run', 'which is exported'),
    ('run/', 'which is exported'),
    ('link_run', 'which is exported'),
    ('run/checkpoints/..', 'which is exported'),
    ('run/exported', 'lies in .*run, which is exported'),
    ('link_run/a/b', 'lies in .*run, which is exported'),
    ('.', 'holds .*run, which is exported'),
    ('model/inside', 'a run or an export'),
    ('link_model/weights', 'a run or an export'),
    ('scans', 'is not an export'),
    ('link_scans', 'is not an export'),
    ('scans/a.nii.gz', 'is not an export'),
    ('scans/a.nii.gz/model', 'is no folder'),
    ('file', 'is not an export'),
    ('other', 'is not an export'),
    ('torn', 'is not an export'),
    ('mixed', r'what no export wrote \(predictions/a.nii.gz\)'),
    ('moved', r'what no export wrote \(weights\)'),
  ],
)
def test_overwrite_leaves_everything_but_exports_alone(place, output, said):
  before = _bytes(place)
  with pytest.raises(ValueError, match=said) as caught:
    _make(f'{place}/{output}', 'new', True, [place / 'run'])
  assert 'choose another' in str(caught.value)
  assert _bytes(place) == before


def test_an_export_is_replaced_only_when_told_to_and_through_a_link(place):
  for output in ('model', 'link_model', 'model/../model'):
    with pytest.raises(ValueError, match='there already'):
      _make(place / output, 'new')
  # What systems and Python add by themselves is nobody's work.
  (place / 'model' / '__pycache__').mkdir()
  (place / 'model' / '__pycache__' / 'load_network.pyc').touch()
  (place / 'model' / '.DS_Store').touch()
  _make(place / 'link_model', 'new', True)
  assert _content(place / 'model') == 'new'
  assert (place / 'link_model').is_symlink()
  assert not [p for p in place.iterdir() if p.name.startswith('.')]


def test_a_model_is_not_replaced_by_what_is_made_of_it(place):
  """Its rows alone, say."""
  for source in (place / 'model', place / 'link_model'):
    with pytest.raises(ValueError, match='which is exported'):
      _make(place / 'model', 'new', True, [source])
  assert _content(place / 'model') == 'old'


@pytest.mark.parametrize(
  'fault', [OSError(28, 'No space'), KeyboardInterrupt()]
)
def test_the_old_export_is_back_if_the_last_step_fails(
  place, monkeypatch, fault
):
  before, replace = _bytes(place), os.replace

  def fails(source, target):
    if '.partial-' in str(source):
      raise fault
    replace(source, target)

  monkeypatch.setattr(atomic.os, 'replace', fails)
  with pytest.raises((OSError, KeyboardInterrupt)):
    _make(place / 'model', 'new', True)
  assert _bytes(place) == before and _content(place / 'model') == 'old'


def test_the_old_export_is_back_after_a_process_was_killed(place):
  """Between the two renames: neither has its name."""
  os.replace(place / 'model', place / '.replaced-model')
  with pytest.raises(ValueError, match='there already'):
    _make(place / 'model', 'new')
  assert _content(place / 'model') == 'old'


@pytest.mark.parametrize('overwrite', [False, True])
def test_what_appears_in_the_meantime_stays(place, overwrite):
  with (
    pytest.raises(ValueError),
    export_folder.making(place / 'fresh', overwrite),
  ):
    (place / 'fresh').mkdir()
    (place / 'fresh' / 'thesis.txt').write_text('mine')
  assert [p.name for p in (place / 'fresh').iterdir()] == ['thesis.txt']
  assert not [p for p in place.iterdir() if p.name.startswith('.')]
