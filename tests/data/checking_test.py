"""data.prepare --init and --check as a user meets them."""

import json

import nibabel as nib
import numpy as np
import own_scans
import pytest

from data import prepare
from data.phantoms import archive


@pytest.fixture(scope='module')
def own(tmp_path_factory, cache):
  place = tmp_path_factory.mktemp('own')
  own_scans.write(place, cache)
  return place


@pytest.fixture
def place(own, tmp_path):
  """Links to the scans, so that some can be changed."""
  for kind in ('ct', 't2'):
    for part in ('images', 'labels'):
      (tmp_path / kind / part).mkdir(parents=True)
      for path in (own / kind / part).iterdir():
        (tmp_path / kind / part / path.name).symlink_to(path)
  return tmp_path


@pytest.fixture
def command(capsys):
  """Runs a command: exit code, standard output, standard error."""

  def run(*flags):
    code = prepare.main([str(flag) for flag in flags])
    out, err = capsys.readouterr()
    assert 'Traceback' not in err and 'Warning' not in err
    return code, out, err

  return run


def test_check_needs_no_dataset_json_and_says_so(place, command):
  code, out, err = command('--check', place)
  assert code == 0
  assert '10 of 10 scans are sound' in out
  assert f'no {place}/dataset.json yet' in err
  assert 'ct: taken for CT' in err and 't2: taken for no CT' in err
  assert not (place / 'dataset.json').exists()
  code, out, _ = command('--init', place)
  assert code == 0 and 'ct class 1' in out
  assert '10 of 10 scans are sound' in command('--check', place)[1]


def test_init_writes_what_can_be_used_and_tells_the_rest(place, command):
  (place / 'ct' / 'images' / 'gone.nii.gz').symlink_to('/annex/x')
  (place / 'ct' / 'images' / 'notes.txt').write_text('x')
  bad = next((place / 't2' / 'images').iterdir())
  bad.unlink()
  bad.write_bytes(b'no scan')
  code, _, err = command('--init', place)
  assert code == 1 and (place / 'dataset.json').exists()
  assert '/annex/x' in err and str(bad) in err
  assert '1 left out' in err and 'notes.txt | a text' in err
  assert err.index('notes.txt') < err.index(str(bad))
  code, out, err = command('--check', place)
  assert code == 1 and '9 of 10 scans are sound' in out
  assert '/annex/x' in err and str(bad) in err and 'notes.txt' in err


def test_nothing_is_written_where_nothing_can_be_guessed(place, command):
  for kind in ('ct', 't2'):
    (place / kind / 'labels').rename(place / kind / 'seg')
  code, _, err = command('--init', place)
  assert code == 1 and not (place / 'dataset.json').exists()
  assert err.count('(found: images, seg)') == 2
  code, _, err = command('--check', place)
  assert code == 1 and err.count('(found: images, seg)') == 2


def test_json_has_all_of_it(place, command):
  task = {**own_scans.TASK, 'patients': {'ct/nobody': 'Smith'}}
  (place / 'dataset.json').write_text(json.dumps(task))
  (place / 't2' / 'images' / 'notes.txt').write_text('x')
  code, out, _ = command('--check', place, '--json')
  found = json.loads(out)
  assert code == 1 and len(found['scans']) == 10
  assert {'plane', 'slices', 'pixel_mm', 'notes'} <= found['scans'][0].keys()
  (bad,) = found['bad']
  assert 'nobody' in bad['reason'] and bad['remedy']
  (left,) = found['left_out']
  assert left['file'].endswith('notes.txt')
  # What is asked for is looked at, and nothing else.
  code, out, _ = command('--check', place, '--json', '--modalities', 't2')
  found = json.loads(out)
  assert {row['modality'] for row in found['scans']} == {'t2'}


def test_a_config_of_own_scans_is_checked_alike(place, command):
  (place / 'dataset.json').write_text(json.dumps(own_scans.TASK))
  (place / 'ct' / 'images' / 'a.mgz').write_bytes(b'x')
  config = ('--config', 'configs/folder.py')
  code, out, err = command('--check', place, *config)
  assert code == 1 and '10 of 10 scans are sound' in out
  assert 'FreeSurfer' in err


def test_what_cannot_be_read_as_json_is_a_sentence(place, command):
  for text in ('', '{', '[]', 'null', '"x"', '{"modalities": 3}', '[' * 9999):
    (place / 'dataset.json').write_text(text)
    code, _, err = command('--check', place)
    assert code == 1 and err.startswith(f'error: {place}/dataset.json: ')
    code, _, err = command('--init', place)
    assert code == 1 and err.startswith(f'error: {place}/dataset.json')


def test_dicom_folders_with_several_series_are_told_apart(tmp_path, command):
  rng = np.random.default_rng(0)
  for patient in range(1, 5):
    for series, name in ((1, 'T1'), (2, 'T2 SPIR')):
      voxels = rng.integers(0, 900, (16, 16, 4)).astype(np.uint16)
      affine = np.diag([2.0, 2, 6, 1])
      archive.write_dicom(
        tmp_path / 't2' / 'images' / f'p{patient}',
        voxels,
        affine,
        [k + 10 * series for k in range(4)],
        patient=patient,
        series=series,
        protocol=name,
      )
    label = np.zeros(voxels.shape, np.uint8)
    label[4:9, 4:9] = 1
    image = nib.Nifti1Image(label, affine)
    (tmp_path / 't2' / 'labels').mkdir(exist_ok=True)
    nib.save(image, tmp_path / 't2' / 'labels' / f'p{patient}.nii')
  code, _, err = command('--init', tmp_path)
  assert code == 1 and '--series' in err
  code, out, _ = command('--check', tmp_path, '--series', 'T2 SPIR')
  assert code == 0 and '4 of 4 scans are sound' in out
  code, out, _ = command('--init', tmp_path, '--series', 'T2 SPIR')
  assert code == 0 and '"series": "T2 SPIR"' in out
  assert command('--check', tmp_path)[0] == 0
  fields = {'labels': {'liver': 1}}
  for series, code in (('', 1), ('T2 SPIR', 0)):
    task = {'modalities': {'t2': fields | {'series': series}}}
    (tmp_path / 'dataset.json').write_text(json.dumps(task))
    found, out, err = command('--check', tmp_path)
    assert found == code
    assert ('4 of 4 scans are sound' in out) == (code == 0)
    assert ('T2 SPIR' in err and '2 series' in err) == (code == 1)


@pytest.mark.parametrize('flag', ['--task', '--init', '--check'])
def test_an_empty_value_is_a_wrong_command_line(flag, capsys):
  with pytest.raises(SystemExit) as caught:
    prepare.main([f'{flag}='])
  assert caught.value.code == 2
  assert 'need a value' in capsys.readouterr().err
