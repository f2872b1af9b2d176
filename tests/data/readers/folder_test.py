import json
import pathlib
import unicodedata
import zlib

import numpy as np
import own_scans
import pytest

from configs import folder as folder_config
from data import prepare, task_file
from data.formats import nifti
from data.phantoms import archive
from data.readers import folder


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
  voxels += zlib.crc32(path.name.encode()) % 1000  # No two are alike.
  nifti.write_nifti(path, voxels, np.diag([1, 1, 3, 1]))
  label = np.zeros(shape, np.uint8)
  label[2:4] = code
  return label


def test_cases_labels_and_patients(own):
  found = folder.look(str(own), _task(own).modalities).cases
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
  names = [
    c.patient for c in folder.look(str(own), _task(own).modalities).cases
  ]
  people = {f'ct/{names[0]}': 'Smith', f't2/{names[5]}': 'Smith'}
  (tmp_path / 'dataset.json').write_text(
    json.dumps({**own_scans.TASK, 'patients': people})
  )
  found = folder.look(str(tmp_path), _task(tmp_path).modalities).cases
  assert found[0].patient == found[5].patient == 'Smith'


def test_nnunet_raw_folders_and_dicom_series_work_as_they_are(tmp_path):
  raw = tmp_path / 'mr'
  for number in (1, 2):
    label = _scan(raw / 'imagesTr' / f'case_{number}_0000.nii.gz')
    (raw / 'labelsTr').mkdir(exist_ok=True)
    nifti.write_nifti(
      raw / 'labelsTr' / f'case_{number}.nii.gz', label, np.diag([1, 1, 3, 1])
    )
  _scan(raw / 'imagesTs' / 'case_9_0000.nii.gz')
  names = {'background': 0, 'cyst': 1}
  (raw / 'dataset.json').write_text(json.dumps({'labels': names}))
  archive.write_dicom(
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
  found = folder.look(str(tmp_path), task.modalities).cases
  assert [c.name for c in found] == ['mr_case_1', 'mr_case_2', 't1_series a']
  assert [c.labeled for c in found] == [True, True, False]
  assert all(c.read().image.shape == (6, 5, 4) for c in found)
  more = folder.look(str(tmp_path), task.modalities, True).cases
  assert next(c.name for c in more if not c.labeled) == 'mr_case_9'
  # What is there is not overwritten.
  assert prepare.main(['--init', str(tmp_path)]) == 1


def _held(place, *names, kind='images'):
  for name in names:
    _scan(place / kind / f'{name}.nii.gz')
  return folder.modality(place)


def _reasons(errors):
  return [error.reason for error in errors]


def test_a_second_channel_is_refused(tmp_path):
  held = _held(tmp_path, 'a_0000', 'a_0001', 'b_0000', kind='imagesTr')
  assert list(held.images) == ['a', 'b']
  (error,) = held.problems
  assert error.file.endswith('a_0001.nii.gz')
  assert 'channel 0001' in error.reason and 'one channel' in error.reason


def test_names_that_only_end_in_numbers_are_no_channels(tmp_path):
  held = _held(tmp_path / 'a', 'p_1001', 'p_1002', kind='imagesTr')
  assert list(held.images) == ['p_1001', 'p_1002'] and not held.problems
  # From 0000 on: the label maps have the same names.
  _held(tmp_path / 'b', 'p_0000', 'p_0001', kind='labelsTr')
  held = _held(tmp_path / 'b', 'p_0000', 'p_0001', kind='imagesTr')
  assert list(held.labels) == list(held.images) == ['p_0000', 'p_0001']
  assert not held.problems
  held = _held(tmp_path / 'b', 'q_0000', 'q_0002', kind='imagesTs')
  assert list(held.tests) == ['q_0000', 'q_0002'] and not held.problems


def test_channel_numbers_for_some_are_explained(tmp_path):
  held = _held(tmp_path, 'a_0000', 'b', 'c_0000', kind='imagesTr')
  assert list(held.images) == ['a', 'c']
  (error,) = held.problems
  assert error.file.endswith('b.nii.gz') and 'no channel number' in error.reason
  assert 'a_0000.nii.gz' in error.reason


def test_label_maps_without_a_scan_are_listed_by_name(own, tmp_path):
  (tmp_path / 'ct' / 'labels').mkdir(parents=True)
  (tmp_path / 'ct' / 'images').symlink_to(own / 'ct' / 'images')
  for path in (own / 'ct' / 'labels').iterdir():
    (tmp_path / 'ct' / 'labels' / f'label_{path.name}').symlink_to(path)
  (tmp_path / 'dataset.json').write_text(json.dumps(own_scans.TASK))
  (error,), _ = folder.look(str(tmp_path), _task(tmp_path).modalities[:1])[1:]
  assert '5 label maps without a scan of the same name: l' in error.reason
  for path in (own / 'ct' / 'labels').iterdir():
    assert f'label_{path.name.removesuffix(".nii.gz")}' in error.reason


def test_no_scans_says_where_they_are_expected(tmp_path):
  (tmp_path / 'ct').mkdir()
  held = folder.modality(tmp_path / 'ct')
  assert 'images/ with' in held.problems[0].remedy and not held.images
  assert 'is not there' in folder.modality(tmp_path / 't2').problems[0].reason


def test_the_problems_of_all_modalities_are_told_at_once(tmp_path):
  _held(tmp_path / 'ct', 'a', 'b')
  _held(tmp_path / 't2', 'a')
  (tmp_path / 'ct' / 'images' / 'c.nii.zip').write_bytes(b'PK')
  (tmp_path / 't2' / 'images' / 'c.nii.gz').symlink_to('/annex/x')
  (tmp_path / 't2' / 'images' / 'notes.txt').write_text('x')
  (tmp_path / 'dataset.json').write_text(json.dumps(own_scans.TASK))
  found = folder.look(str(tmp_path), _task(tmp_path).modalities)
  assert [case.name for case in found.cases] == ['ct_a', 'ct_b', 't2_a']
  assert len(found.problems) == 2
  assert '/annex/x' in found.problems[1].reason
  assert [e.file.rsplit('/')[-1] for e in found.left_out] == ['notes.txt']
  assert folder.look(str(tmp_path), _task(tmp_path).modalities).cases != []


def test_composed_and_decomposed_names_are_one_case_and_one_patient(tmp_path):
  nfd = unicodedata.normalize('NFD', 'Bär')
  _held(tmp_path / 'ct', nfd, 'Bör', 'B?r', 'Bar 1', '50%')
  _held(tmp_path / 'ct', 'Bär', kind='labels')
  _held(tmp_path / 't2', 'Bär')
  task = {**own_scans.TASK, 'patients': {f'ct/{nfd}': nfd, 'ct/50%': 'B'}}
  (tmp_path / 'dataset.json').write_text(json.dumps(task))
  found = folder.look(str(tmp_path), _task(tmp_path).modalities)
  assert not found.problems
  ct = {case.name: case for case in found.cases if case.modality == 'ct'}
  assert set(ct) == {'ct_Bär', 'ct_Bör', 'ct_B?r', 'ct_Bar 1', 'ct_50%25'}
  assert ct['ct_Bär'].labeled and not ct['ct_Bör'].labeled
  assert found.cases[-1].patient == ct['ct_Bär'].patient == 'Bär'
  assert ct['ct_50%25'].patient == 'B'


def test_two_files_of_one_name_are_refused_and_neither_is_used(tmp_path):
  nfd = unicodedata.normalize('NFD', 'Bär')
  held = _held(tmp_path, 'Bär', nfd, 'c')
  assert list(held.images) == ['c']
  (error,) = held.problems
  assert 'has the same name as' in error.reason
  assert {nfd, 'Bär'} == {
    pathlib.Path(file.split(':')[0]).name.removesuffix('.nii.gz')
    for file in (error.file, error.reason.split(' as ')[1])
  }


@pytest.mark.parametrize('key', ['ct/who', 'CT/a', 'a', 'xy/a'])
def test_a_patient_who_fits_no_scan_is_a_problem(key, tmp_path):
  for kind in ('ct', 't2'):
    _held(tmp_path / kind, 'a', 'b')
  task = {**own_scans.TASK, 'patients': {'ct/a': 'x', key: 'Smith'}}
  (tmp_path / 'dataset.json').write_text(json.dumps(task))
  modalities = _task(tmp_path).modalities
  (error,), _ = folder.look(str(tmp_path), modalities)[1:]
  assert f'{key} (Smith) fits no scan' in error.reason
  # Of a modality that is not asked for, nothing can be said.
  asked = modalities[1:] if key == 'ct/who' else ()
  assert not asked or folder.look(str(tmp_path), asked)[1:] == ([], [])


def test_a_subfolder_of_several_scans_is_refused_with_their_names(tmp_path):
  held = _held(tmp_path, 'a', 'case/ct', 'old/x', 'old/y', 'old/z')
  assert list(held.images) == ['a', 'case']
  (error,) = held.problems
  assert error.file.endswith('images/old')
  assert 'holds 3 scans: old_x, old_y, old_z' in error.reason


def test_label_maps_in_a_folder_of_another_name_are_noticed(tmp_path):
  _held(tmp_path, 'a', kind='masks')
  held = _held(tmp_path, 'a')
  (error,) = held.problems
  assert f'labelsTr/ in {tmp_path} (found: images, masks)' in error.reason
  _held(tmp_path, 'a', kind='labels')
  held = folder.modality(tmp_path)
  assert not held.problems and list(held.labels) == ['a']
  assert held.left_out[0].file.endswith('masks')


def test_a_scan_whose_label_map_is_broken_is_not_taken_for_unlabelled(tmp_path):
  _held(tmp_path, 'b', kind='labels')
  held = _held(tmp_path, 'a', 'b', 'c')
  assert list(held.images) == ['a', 'b', 'c']
  (tmp_path / 'labels' / 'a.nii.gz').symlink_to('/annex/a')
  held = folder.modality(tmp_path)
  assert list(held.images) == ['b', 'c'] and len(held.problems) == 1


def test_folders_may_be_called_in_capitals_but_not_be_there_twice(tmp_path):
  held = _held(tmp_path, 'a', kind='Images')
  assert list(held.images) == ['a'] and not held.problems
  held = _held(tmp_path, 'b', kind='imagesTr')
  assert 'holds Images and imagesTr' in held.problems[0].reason


def test_what_lies_beside_the_modalities_is_told(tmp_path):
  for kind in ('ct', 't2', 't1'):
    _held(tmp_path / kind, 'a')
  _scan(tmp_path / 'lost.nii')
  _scan(tmp_path / 'ct' / 'lost.mha')
  (tmp_path / 'done').mkdir()
  (tmp_path / 'done' / 'predictions.json').write_text('{}')
  (tmp_path / 'README.md').write_text('x')
  (tmp_path / 'dataset.json').write_text(json.dumps(own_scans.TASK))
  _, problems, left_out = folder.look(str(tmp_path), _task(tmp_path).modalities)
  assert _reasons(problems) == ['a scan where none is read'] * 2
  assert _reasons(left_out) == [
    'a text',
    'results of this program',
    'a modality that dataset.json does not name',
  ]


def _nnunet(place, names, **found):
  for name in names:
    label = _scan(place / 'imagesTr' / f'{name}_0000.nii.gz')
    (place / 'labelsTr').mkdir(exist_ok=True)
    file = place / 'labelsTr' / f'{name}.nii.gz'
    nifti.write_nifti(file, label, np.diag([1, 1, 3, 1]))
  (place / 'dataset.json').write_bytes(
    b'\xef\xbb\xbf' + json.dumps(found).encode()
  )


def test_an_nnunet_folder_is_a_data_set_as_it_is(tmp_path, capsys):
  _nnunet(
    tmp_path,
    'abc',
    channel_names={'0': 'T2w (SPIR)'},
    labels={'background': 0, 'cyst': 1},
  )
  _scan(tmp_path / 'imagesTs' / 'd_0000.nii.gz')
  before = sorted(tmp_path.rglob('*'))
  assert prepare.main(['--check', str(tmp_path)]) == 0
  assert '3 of 3 scans are sound' in capsys.readouterr().out
  assert prepare.main(['--init', str(tmp_path)]) == 0
  assert "nnU-Net's own" in capsys.readouterr().out
  assert sorted(tmp_path.rglob('*')) == before
  config = folder_config.get_config(f'scans={tmp_path}')
  task = task_file.find(config.task)
  assert config.data.folder == str(tmp_path)
  assert task.classes == ('background', 'cyst')
  found = folder.look(config.data.folder, task.modalities, True)
  assert [c.name for c in found.cases] == [f't2w_spir_{n}' for n in 'abcd']
  assert found.cases[0].read().label.max() == 1
  assert not found.problems and not found.left_out


def test_one_series_of_dicom_folders_is_named_in_the_task(tmp_path):
  for patient in (1, 2):
    for number, name in enumerate(('T1', 'T2 SPIR'), 1):
      archive.write_dicom(
        tmp_path / 't2' / 'images' / f'p{patient}' / name,
        np.full((6, 5, 4), number, np.uint16) + np.arange(4, dtype=np.uint16),
        np.diag([1.0, 1, 3, 1]),
        [1 + 10 * number, 2 + 10 * number, 3 + 10 * number, 4 + 10 * number],
        patient=patient,
        series=number,
        protocol=name,
      )
  found = folder.modality(tmp_path / 't2')
  assert len(found.problems) == 2 and not found.images
  assert 'holds 2 scans' in found.problems[0].reason
  held = folder.modality(tmp_path / 't2', 't2 spir')
  assert list(held.images) == ['p1', 'p2'] and not held.problems
  assert len(held.left_out) == 2
  assert {s.path.name for s in held.images.values()} == {'T2 SPIR'}


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
  config = folder_config.get_config(f'scans={own},preset=paper')
  assert config.task == str(own / 'dataset.json')
  assert config.data.folder == str(own)
  assert (config.data.slice_size, config.data.roi) == (32, 'none')
  assert config.augment.patch_size == 16
  with pytest.raises(ValueError, match='needs a folder'):
    folder_config.get_config()
