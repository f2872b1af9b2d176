"""Volumes in mL: right on any grid, and none of them gets lost."""

import csv

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data.formats.scan_error import ScanError
from dbdc_jax.inference import volumes

NAMES = ('background', 'liver', 'right kidney', 'spleen')
SPACING = (0.7, 1.3, 4.0)
OBLIQUE = Rotation.from_euler('xyz', (20, -35, 50), degrees=True).as_matrix()
SHEAR = np.array([[1, 0.4, -0.2], [0, 1, 0.7], [0, 0, 1]])


def _affine(matrix):
  return nib.affines.from_matvec(matrix @ np.diag(SPACING), (5, -6, 7))


def _classes(shape=(9, 8, 7)):
  noise = np.random.default_rng(0)
  return noise.integers(0, len(NAMES), shape, np.uint8)


def _millilitres(row):
  return [float(row[f'{name} (mL)']) for name in NAMES[1:]]


@pytest.mark.parametrize(
  'matrix',
  [np.eye(3), np.diag([-1, -1, 1]), OBLIQUE, -OBLIQUE],
  ids=['straight', 'LPS', 'oblique', 'mirrored'],
)
def test_voxels_times_their_sides(matrix):
  classes, affine = _classes(), _affine(matrix)
  (row,) = volumes.rows('a', 'ct', classes, affine, NAMES)
  voxel = np.prod(nib.affines.voxel_sizes(affine)) / 1000
  wanted = [(classes == k).sum() * voxel for k in (1, 2, 3)]
  np.testing.assert_allclose(_millilitres(row), wanted, rtol=1e-7)


def test_a_sheared_voxel_is_a_parallelepiped():
  # The product of its sides is too large: its faces are not at right angles.
  affine = _affine(OBLIQUE @ SHEAR)
  classes = _classes()
  (row,) = volumes.rows('a', 'ct', classes, affine, NAMES)
  a, b, c = affine[:3, :3].T
  voxel = abs(np.cross(a, b) @ c) / 1000
  wanted = [(classes == k).sum() * voxel for k in (1, 2, 3)]
  np.testing.assert_allclose(_millilitres(row), wanted, rtol=1e-7)
  assert voxel < 0.9 * np.prod(nib.affines.voxel_sizes(affine)) / 1000


def test_parts_make_the_whole():
  classes = np.maximum(_classes(), 1)
  (row,) = volumes.rows('a', 'ct', classes, _affine(OBLIQUE), NAMES)
  litre = classes.size * np.prod(SPACING) / 1000
  assert sum(_millilitres(row)) == pytest.approx(litre)


def test_a_small_volume_is_not_rounded_away():
  classes = np.zeros((3, 3, 3), np.uint8)
  classes[1, 1, 1] = 2
  affine = np.diag([0.01, 0.01, 0.01, 1])
  (row,) = volumes.rows('a', 'ct', classes, affine, NAMES)
  np.testing.assert_allclose(_millilitres(row), [0, 1e-9, 0], rtol=1e-7)


def test_not_found_is_0_and_not_looked_for_is_empty():
  classes = np.zeros((3, 3, 3), np.uint8)
  (row,) = volumes.rows('a', 't2', classes, np.eye(4), NAMES, drawn={0, 1, 3})
  assert row == {
    'scan': 'a',
    'modality': 't2',
    'liver (mL)': '0',
    'right kidney (mL)': '',
    'spleen (mL)': '0',
  }


def _rows(name, modality='ct', names=NAMES):
  return volumes.rows(name, modality, _classes(), np.eye(4), names)


ODD = ['a', 'ü, "b"', '=1+1', '-5', '@x', '+x', "'=x", "'a", 'é\u0301', '山']


def test_a_table_is_read_as_it_was_written(tmp_path):
  lines = [row for name in ODD for row in _rows(name)]
  volumes.write(tmp_path / 'volumes.csv', lines)
  assert volumes.read(tmp_path / 'volumes.csv') == lines


def test_a_spreadsheet_sees_headings_units_and_no_formula(tmp_path):
  path = tmp_path / 'volumes.csv'
  volumes.write(path, [row for name in ODD for row in _rows(name)])
  assert path.read_bytes().startswith(b'\xef\xbb\xbf')
  with path.open(encoding='utf-8-sig', newline='') as file:
    table = list(csv.reader(file))
  assert table[0] == ['scan', 'modality'] + [f'{n} (mL)' for n in NAMES[1:]]
  assert [line[0][0] for line in table[1:]].count("'") == 6
  assert not any(cell[:1] in '=+-@' for line in table for cell in line if cell)


@pytest.mark.parametrize('delimiter', [';', '\t'])
def test_a_table_that_a_spreadsheet_saved_is_the_same(tmp_path, delimiter):
  path = tmp_path / 'volumes.csv'
  lines = _rows('a, b') + _rows('c')
  volumes.write(path, lines)
  with path.open(encoding='utf-8-sig', newline='') as file:
    table = list(csv.reader(file))
  if delimiter == ';':  # Where a comma is the decimal point.
    for line in table[1:]:
      line[2:] = [cell.replace('.', ',') for cell in line[2:]]
  with path.open('w', encoding='utf-8', newline='') as file:
    csv.writer(file, delimiter=delimiter).writerows(table)
  assert volumes.read(path) == lines


def test_merging_keeps_the_others_and_replaces_its_own(tmp_path):
  path = tmp_path / 'volumes.csv'
  assert volumes.read(path) == []
  volumes.write(path, volumes.merge([], _rows('a') + _rows('b') + _rows('c')))
  again = volumes.merge(volumes.read(path), _rows('b', 'mr') + _rows('d'))
  assert [(r['scan'], r['modality']) for r in again] == [
    ('a', 'ct'),
    ('b', 'mr'),
    ('c', 'ct'),
    ('d', 'ct'),
  ]


def test_other_classes_get_columns_of_their_own(tmp_path):
  path = tmp_path / 'volumes.csv'
  volumes.write(path, _rows('a') + _rows('b', names=(*NAMES, 'aorta')))
  first, second = volumes.read(path)
  assert first['aorta (mL)'] == ''
  assert second['aorta (mL)'] == '0'


@pytest.mark.parametrize(
  ('data', 'reason'),
  [
    (b'', 'no table of volumes'),
    (b'name,age\na,5\n', 'no table of volumes'),
    (b'scan,modality,a (mL),a (mL)\n', 'no table of volumes'),
    (b'scan,modality,a (mL)\nx,ct\n', 'line 2 has 2 cells, not 3'),
    (b'scan,modality,a (mL)\nx,ct,1,2\n', 'line 2 has 4 cells, not 3'),
    (b'scan,modality\n\xfc,ct\n', 'not UTF-8'),
    (b'PK\x03\x04\x00\x00', 'no table of volumes'),
  ],
)
def test_a_file_that_is_no_table_is_not_taken_for_one(tmp_path, data, reason):
  path = tmp_path / 'volumes.csv'
  path.write_bytes(data)
  with pytest.raises(ScanError, match=reason) as error:
    volumes.read(path)
  assert error.value.file == str(path)
  assert path.read_bytes() == data


def test_lines_without_a_cell_are_no_lines(tmp_path):
  path = tmp_path / 'volumes.csv'
  path.write_bytes(b'scan,modality,a (mL)\r\nx,ct,1\r\n,,\r\n\r\n')
  assert len(volumes.read(path)) == 1


def test_a_failed_write_leaves_the_table(tmp_path, monkeypatch):
  path = tmp_path / 'volumes.csv'
  volumes.write(path, _rows('a'))
  before = path.read_bytes()

  def full(*_):
    raise OSError(28, 'no space')

  monkeypatch.setattr('os.replace', full)
  with pytest.raises(OSError, match=path.name.replace('.', '[.]')):
    volumes.write(path, _rows('b'))
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]
