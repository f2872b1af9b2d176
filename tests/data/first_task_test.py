import json

import numpy as np
import own_scans
import pytest

from data import first_task, task_file
from data.formats import nifti
from data.formats.scan_error import ScanError

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def _write(path, voxels):
  path.parent.mkdir(parents=True, exist_ok=True)
  nifti.write_nifti(path, voxels, AFFINE)


def _scan(place, name, codes=(1, 2), seed=0, ct=True):
  """A box of two organs in soft tissue, as CT or as MR."""
  rng = np.random.default_rng(seed)
  label = np.zeros((24, 24, 10), np.int16)
  label[4:12, 6:18, 2:8], label[12:20, 6:18, 2:8] = codes
  image = np.full(label.shape, 40.0) if ct else np.full(label.shape, 400.0)
  image[:3] = -1000 if ct else 5
  image += 60 * (label != 0) + rng.normal(0, 5, label.shape)
  _write(place / 'images' / f'{name}.nii.gz', image.round().astype(np.int16))
  _write(place / 'labels' / f'{name}.nii.gz', label)
  return image.round().astype(np.int16)


def _guess(root):
  ticks = []
  held = first_task.listing(root)
  found = first_task.guess(root, held, lambda: ticks.append(1))
  assert len(ticks) == sum(len(here.images) for here in held.values())
  return found


def test_a_first_task_is_sound_and_says_why(tmp_path):
  for name in 'abc':
    _scan(tmp_path / 'ct', name)
    _scan(tmp_path / 't2', name, codes=(1, 5), ct=False)
  found = _guess(tmp_path)
  task = task_file.from_dict(found.content, 'x')
  ct, t2 = task.modalities
  assert ct.intensity.window and not t2.intensity.window
  # Codes that mean different organs do not become one class.
  assert task.classes[1:] == (
    'ct class 1', 'ct class 2', 't2 class 1', 't2 class 5',
  )  # fmt: skip
  assert ct.codes == {0: 0, 1: 1, 2: 2} and t2.codes == {0: 0, 1: 3, 5: 4}
  assert task.slice_size == 64  # Nearest to 24 pixels.
  assert not found.errors and not found.left_out
  assert found.notes[0].startswith('ct: taken for CT (a: ')
  assert 'soft tissue' in found.notes[0]
  assert found.notes[1].startswith('t2: taken for no CT (a: ')


def test_one_odd_scan_does_not_decide_and_is_named(tmp_path):
  for name in 'abc':
    image = _scan(tmp_path / 'ct', name)
  _write(tmp_path / 'ct' / 'images' / 'c.nii.gz', image + 1100)
  found = _guess(tmp_path)
  assert found.content['modalities']['ct']['intensity'] == {
    'window': [-125, 275]
  }
  assert (
    '1 of 3 scans look otherwise (c: no value is below 0)' in (found.notes[0])
  )


def test_one_ct_among_mr_does_not_make_it_ct(tmp_path):
  for name, ct in (('a', True), ('b', False), ('c', False)):
    _scan(tmp_path / 'mr', name, ct=ct)
  found = _guess(tmp_path)
  assert 'window' not in found.content['modalities']['mr']['intensity']
  assert '1 of 3 scans look otherwise (a: ' in found.notes[0]


def test_what_was_not_annotated_is_no_class(tmp_path):
  for name, codes in (('a', (1, 255)), ('b', (255, 2)), ('c', (1, -1))):
    _scan(tmp_path / 'ct', name, codes)
  found = _guess(tmp_path)
  assert found.content['modalities']['ct']['labels'] == {
    'ignore': [-1, 255],
    'class 1': 1,
    'class 2': 2,
  }
  _, minus, other = found.notes
  assert 'code -1 in 1 label maps (c.nii.gz: 576 voxels)' in minus
  assert 'code 255 in 2 label maps (a.nii.gz: 576 voxels, b' in other
  # A name makes it one.
  (tmp_path / 'ct' / 'dataset.json').write_text(
    json.dumps({'labels': {'background': 0, 'rim': 255, 'two': [1, 2]}})
  )
  found = _guess(tmp_path)
  assert found.content['modalities']['ct']['labels'] == {
    'ignore': -1,
    'two': [1, 2],
    'rim': 255,
  }
  assert not found.errors


def test_every_bad_scan_is_told_and_the_others_decide(tmp_path):
  place = tmp_path / 'ct'
  for name in 'abcde':
    image = _scan(place, name)
  (place / 'images' / 'a.nii.gz').write_bytes(b'x')
  (place / 'labels' / 'b.nii.gz').write_bytes(b'')
  _write(place / 'labels' / 'c.nii.gz', image)  # An image of another scan.
  (place / 'images' / 'x.zip').write_bytes(b'PK')
  found = _guess(tmp_path)
  assert list(found.content['modalities']['ct']['labels']) == [
    'class 1',
    'class 2',
  ]
  assert len(found.errors) == 4
  said = {e.file.rsplit('/', 2)[-2:][0] + e.file[-8:]: e for e in found.errors}
  assert 'different codes' in said['labelsc.nii.gz'].reason


def test_a_folder_may_have_any_name(tmp_path):
  for place in ('CT scan', 'МРТ', 'T2'):
    for name in 'abc':
      _scan(tmp_path / place, name)
  fields = _guess(tmp_path).content['modalities']
  assert {name: f.get('folder', name) for name, f in fields.items()} == {
    'CT_scan': 'CT scan',
    'T2': 'T2',
    'modality_3': 'МРТ',
  }
  assert fields['modality_3']['title'] == 'МРТ'


@pytest.mark.parametrize('kind', ['empty', 'none', 'masks', 'other names'])
def test_why_no_class_was_found(kind, tmp_path):
  for name in 'ab':
    _scan(tmp_path / 'ct', name, codes=(0, 0) if kind == 'empty' else (1, 2))
  labels = tmp_path / 'ct' / 'labels'
  if kind == 'masks':
    labels.rename(labels.with_name('masks'))
  elif kind != 'empty':
    for number, path in enumerate(sorted(labels.iterdir())):
      path.rename(path.with_name(f'seg_{number}.nii.gz'))
  if kind == 'none':
    for path in [*labels.iterdir(), labels]:
      path.unlink() if path.is_file() else path.rmdir()
  with pytest.raises(first_task.BadFirst) as caught:
    _guess(tmp_path)
  (error,) = caught.value.errors
  assert {
    'empty': 'no label map has a labelled voxel',
    'none': 'no label maps found',
    'masks': '(found: images, masks)',
    'other names': '2 label maps without a scan of the same name: seg_0, seg_1',
  }[kind] in error.reason


def test_no_modality_says_what_is_there_instead(tmp_path):
  with pytest.raises(ScanError, match='no modality folders found'):
    first_task.listing(tmp_path / 'none')
  (tmp_path / 'imaging').mkdir()
  with pytest.raises(ScanError, match=r'found \(found: imaging\)'):
    first_task.listing(tmp_path)
  _scan(tmp_path, 'a')
  with pytest.raises(ScanError, match='is a modality folder itself'):
    first_task.listing(tmp_path)


def test_ignored_voxels_of_nnunet_are_ignored(tmp_path):
  _scan(tmp_path / 'ct', 'a', (1, 2))
  (tmp_path / 'ct' / 'dataset.json').write_text(
    json.dumps({'labels': {'background': 0, 'liver': 1, 'ignore': 2}})
  )
  found = _guess(tmp_path)
  labels = found.content['modalities']['ct']['labels']
  assert labels == {'liver': 1, 'ignore': 2} and not found.errors


def test_a_modality_without_labels_has_the_classes_of_the_others(
  tmp_path, cache
):
  own_scans.write(tmp_path, cache)
  (tmp_path / 't2' / 'labels').rename(tmp_path / 'away')
  (tmp_path / 'dataset.json').unlink()
  found = _guess(tmp_path)
  fields = found.content['modalities']
  assert fields['t2']['labels'] == fields['ct']['labels']
  assert 't2: no label maps' in found.notes[-1]
  # What lies beside the modalities is told.
  assert [e.file for e in found.left_out] == [str(tmp_path / 'away')]
