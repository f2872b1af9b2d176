"""Which files of two folders are one case, whatever they are called."""

import pathlib
import unicodedata

import numpy as np
import pytest

from data.files import names
from data.formats import scan_files
from data.formats.nifti import write_nifti
from data.formats.scan_error import ScanError
from data.formats.scan_files import Source
from dbdc_jax.evaluation import matching

LABEL = np.ones((2, 3, 4), np.uint8)


def _write(folder, *names):
  for name in names:
    path = folder / f'{name}.nii'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, LABEL, np.eye(4))


def _find(tmp_path, predictions, references):
  _write(tmp_path / 'p', *predictions)
  _write(tmp_path / 'r', *references)
  return matching.find(tmp_path / 'p', tmp_path / 'r')


def _stems(case):
  return tuple(source.path.stem for source in case[1:])


@pytest.mark.parametrize(
  ('prediction', 'reference'),
  [
    ('a', 'a'),
    ('ct_train_1001_image', 'ct_train_1001_label'),
    ('case_0000', 'case'),
    ('case', 'case_0000'),
    ('heart_0000', 'heart_gt'),
    ('img0001', 'label0001'),
    ('label0001', 'img0001'),
    ('volume-12', 'segmentation-12'),
    ('patient001_frame01', 'patient001_frame01_gt'),
    ('BraTS_001_pred', 'BraTS_001_seg'),
    ('x_image_0000', 'x_label'),
    (unicodedata.normalize('NFD', 'Müller é'), 'Müller é'),
  ],
)
def test_names_that_mean_one_case_are_matched(tmp_path, prediction, reference):
  found = _find(tmp_path, [prediction], [reference])
  (case,) = found.cases
  assert _stems(case) == (prediction, reference)
  assert (found.missing, found.problems, found.total) == ([], [], 1)
  alike = unicodedata.normalize('NFC', prediction) == reference
  assert bool(found.matched) is not alike
  assert case.name == reference


@pytest.mark.parametrize(
  ('prediction', 'reference'),
  [
    ('a', 'b'),
    ('x_0001', 'x'),
    ('img_a', 'label_a'),
    ('1', '01'),
    ('_gt', 'b'),
  ],
)
def test_other_names_are_not_and_are_shown(tmp_path, prediction, reference):
  with pytest.raises(ValueError, match='no name is in both') as caught:
    _find(tmp_path, [prediction], [reference])
  assert f'predictions {prediction};' in str(caught.value)
  assert f'references {reference};' in str(caught.value)


def test_many_names_are_shown_in_part(tmp_path):
  with pytest.raises(ValueError, match=r'p0, .*, p7 and 2 more; references r'):
    _find(tmp_path, [f'p{i}' for i in range(10)], ['r'])


def test_exact_names_win(tmp_path):
  found = _find(tmp_path, ['x_0000', 'x', 'y_0000'], ['x', 'y', 'y_gt'])
  (case,) = found.cases
  assert _stems(case) == ('x', 'x') and found.matched == ''
  # y_0000 may be either of two; x_0000 has nothing left.
  (problem,) = found.problems
  assert all(f'{n}.nii' in problem.reason for n in ('y_0000', 'y', 'y_gt'))
  assert [pathlib.Path(e.file).stem for e in found.missing] == ['x_0000']


def test_two_predictions_for_one_reference_are_refused(tmp_path):
  found = _find(tmp_path, ['x_0000', 'x_image', 'z'], ['x', 'z'])
  assert [case.name for case in found.cases] == ['z'] and not found.missing
  (problem,) = found.problems
  assert 'x_0000.nii' in problem.reason and 'x_image.nii' in problem.reason
  assert found.total == 2


@pytest.mark.parametrize('name', ['B\udcfcr', '50%', 'a\x1b[31m', 'x' * 250])
def test_what_predict_calls_a_scan_is_matched(tmp_path, monkeypatch, name):
  # A folder gives names that are safe; a prediction's is made of one of them.
  def find(place, **flags):
    (folder,) = [place / 'map.nii']
    stem = names.case_name(name)
    if place.name == 'p':
      stem = names.case_name(names.on_disk(stem, '.nii.gz')[: -len('.nii.gz')])
    return scan_files.Listing({stem: Source(stem, folder)}, [], [])

  monkeypatch.setattr(scan_files, 'find', find)
  found = matching.find(tmp_path / 'p', tmp_path / 'r')
  assert [c.name for c in found.cases] == [names.case_name(name)]
  assert found.missing == []


def test_entropy_beside_its_label_map_is_no_case(tmp_path):
  found = _find(tmp_path, ['a', 'a_entropy', 'b_entropy'], ['a', 'b_entropy'])
  assert [case.name for case in found.cases] == ['a', 'b_entropy']
  assert found.missing == found.problems == []


def test_an_image_beside_its_label_map_is_no_reference(tmp_path):
  found = _find(
    tmp_path, ['s_image', 't_image'], ['s_image', 's_label', 't_image']
  )
  assert [_stems(case) for case in found.cases] == [
    ('s_image', 's_label'),
    ('t_image', 't_image'),
  ]
  (out,) = found.left_out
  assert pathlib.Path(out.file).stem == 's_image' and 's_label' in out.reason


def test_two_files_are_one_case(tmp_path):
  _write(tmp_path, 'mine', 'theirs')
  found = matching.find(tmp_path / 'mine.nii', tmp_path / 'theirs.nii')
  (case,) = found.cases
  assert _stems(case) == ('mine', 'theirs') and found.total == 1


def test_a_file_that_cannot_be_used_is_told_where_nothing_is_left(
  tmp_path, monkeypatch
):
  _write(tmp_path, 'a')
  bad = ScanError(tmp_path / 'b.img', 'its header is missing', 'add it')
  find = scan_files.find

  def without_b(place, **flags):
    if place.name == 'b.img':
      return scan_files.Listing({}, [bad], [])
    return find(place, **flags)

  (tmp_path / 'b.img').write_bytes(b'')
  monkeypatch.setattr(scan_files, 'find', without_b)
  with pytest.raises(ValueError, match='its header is missing') as caught:
    matching.find(tmp_path / 'b.img', tmp_path / 'a.nii')
  assert 'predictions none; references a' in str(caught.value)


def test_folders_inside_of_the_other_are_not_looked_into(tmp_path):
  _write(tmp_path, 'a')
  _write(tmp_path / 'reference', 'a')
  _write(tmp_path / 'out', 'b')
  found = matching.find(tmp_path, tmp_path / 'reference', tmp_path / 'out')
  assert len(found.cases) == found.total == 1
  assert found.missing == found.problems == []


@pytest.mark.parametrize(
  ('name', 'core'),
  [
    ('x', 'x'),
    ('x_0000', 'x'),
    ('x_image_0000', 'x'),
    ('x_LABEL', 'x'),
    ('_label', '_label'),
    ('image_0000', 'image'),
    ('labels', 'labels'),
    ('img12', '12'),
    ('x_00000', 'x_00000'),
  ],
)
def test_the_core_of_a_name(name, core):
  assert matching.core(name) == core
