import json

import numpy as np
import own_scans
import pytest

from configs import folder as folder_config
from data import folder, phantom_archive, prepare, task_file, volume_io
from data.scan_error import ScanError


@pytest.fixture(scope='module')
def own(tmp_path_factory, cache):
  place = tmp_path_factory.mktemp('own')
  own_scans.write(place, cache)
  return place


def _task(place):
  return task_file.find(str(place / 'dataset.json'))


def _scan(path, code=1, shape=(6, 5, 4)):
  """An image, and a label map beside it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
  volume_io.write_nifti(path, voxels, np.diag([1, 1, 3, 1]))
  label = np.zeros(shape, np.uint8)
  label[2:4] = code
  return label


def test_cases_labels_and_patients(own):
  found = list(folder.cases(str(own), _task(own).modalities))
  assert [c.modality for c in found] == ['ct'] * 5 + ['t2'] * 5
  assert [c.labeled for c in found] == [True] * 9 + [False]
  assert all(c.name == f'{c.modality}_{c.patient}' for c in found)
  scan = found[0].read()
  assert scan.label.shape == scan.image.shape
  assert set(np.unique(scan.label)) <= {0, 1, 2, 3, 4}
  assert found[-1].read().label is None


def test_patients_may_be_named(own, tmp_path):
  (tmp_path / 'ct').symlink_to(own / 'ct')
  (tmp_path / 't2').symlink_to(own / 't2')
  names = [c.patient for c in folder.cases(str(own), _task(own).modalities)]
  people = {f'ct/{names[0]}': 'Smith', f't2/{names[5]}': 'Smith'}
  (tmp_path / 'dataset.json').write_text(
    json.dumps({**own_scans.TASK, 'patients': people})
  )
  found = list(folder.cases(str(tmp_path), _task(tmp_path).modalities))
  assert found[0].patient == found[5].patient == 'Smith'


def test_nnunet_raw_folders_and_dicom_series_work_as_they_are(tmp_path):
  raw = tmp_path / 'mr'
  for number in (1, 2):
    label = _scan(raw / 'imagesTr' / f'case_{number}_0000.nii.gz')
    (raw / 'labelsTr').mkdir(exist_ok=True)
    volume_io.write_nifti(
      raw / 'labelsTr' / f'case_{number}.nii.gz', label, np.diag([1, 1, 3, 1])
    )
  _scan(raw / 'imagesTs' / 'case_9_0000.nii.gz')
  names = {'background': 0, 'cyst': 1}
  (raw / 'dataset.json').write_text(json.dumps({'labels': names}))
  phantom_archive.write_dicom(
    tmp_path / 't1' / 'images' / 'series a',
    np.arange(120, dtype=np.uint16).reshape(6, 5, 4),
    np.diag([1.0, 1, 3, 1]),
    [1, 2, 3, 4],
    patient=1,
    series=1,
    protocol='T1',
  )
  assert prepare.main(['--init', str(tmp_path)]) == 0
  task = _task(tmp_path)
  assert task.classes == ('background', 'cyst')
  found = list(folder.cases(str(tmp_path), task.modalities))
  assert [c.name for c in found] == ['mr_case_1', 'mr_case_2', 't1_series_a']
  assert [c.labeled for c in found] == [True, True, False]
  assert all(c.read().image.shape == (6, 5, 4) for c in found)
  more = list(folder.cases(str(tmp_path), task.modalities, True))
  assert next(c.name for c in more if not c.labeled) == 'mr_case_9'
  # What is there is not overwritten.
  assert prepare.main(['--init', str(tmp_path)]) == 1


def test_a_second_channel_is_refused(tmp_path):
  _scan(tmp_path / 'mr' / 'imagesTr' / 'a_0000.nii.gz')
  _scan(tmp_path / 'mr' / 'imagesTr' / 'a_0001.nii.gz')
  with pytest.raises(ScanError, match='one channel'):
    folder.images_of(tmp_path / 'mr')


def test_label_maps_without_a_scan_are_refused(own, tmp_path):
  (tmp_path / 'ct' / 'labels').mkdir(parents=True)
  (tmp_path / 'ct' / 'images').symlink_to(own / 'ct' / 'images')
  for path in (own / 'ct' / 'labels').iterdir():
    (tmp_path / 'ct' / 'labels' / f'label_{path.name}').symlink_to(path)
  (tmp_path / 'dataset.json').write_text(json.dumps(own_scans.TASK))
  with pytest.raises(ScanError, match='5 label maps without a scan'):
    list(folder.cases(str(tmp_path), _task(tmp_path).modalities[:1]))


def test_no_scans_says_where_they_are_expected(tmp_path):
  (tmp_path / 'ct').mkdir()
  with pytest.raises(ScanError, match=r'expected .*images/'):
    folder.images_of(tmp_path / 'ct')


def test_check_reads_every_scan_and_finds_the_bad_one(own, tmp_path, capsys):
  assert prepare.main(['--check', str(own)]) == 0
  assert '10 of 10 scans are sound' in capsys.readouterr().out
  for name in ('ct', 't2'):
    (tmp_path / name / 'images').mkdir(parents=True)
    (tmp_path / name / 'labels').symlink_to(own / name / 'labels')
    for path in (own / name / 'images').iterdir():
      (tmp_path / name / 'images' / path.name).symlink_to(path)
  (tmp_path / 'dataset.json').write_text(json.dumps(own_scans.TASK))
  bad = next((tmp_path / 'ct' / 'images').iterdir())
  data = bad.read_bytes()
  bad.unlink()
  bad.write_bytes(data[:-20])
  capsys.readouterr()
  assert prepare.main(['--check', str(tmp_path), '--json']) == 1
  found = json.loads(capsys.readouterr().out)
  assert len(found['scans']) == 9
  (row,) = found['bad']
  assert row['file'] == str(bad) and row['reason'] and row['remedy']


def test_check_takes_a_config_of_an_archive(cache, own, capsys):
  """The phantom's abdomen lies in the archives' own layouts."""
  place = cache / 'own'
  flags = ['--config', 'configs/abdomen.py', '--modalities', 'ct,t2']
  assert prepare.main(['--check', str(place), *flags]) == 0
  assert '10 of 10 scans are sound' in capsys.readouterr().out


def test_the_config_takes_sizes_from_the_task(own):
  config = folder_config.get_config(f'scans={own}')
  assert config.task == str(own / 'dataset.json')
  assert config.data.folder == str(own)
  assert (config.data.slice_size, config.data.roi) == (32, 'none')
  assert config.augment.patch_size == 16
  with pytest.raises(ValueError, match='needs a folder'):
    folder_config.get_config()
