import zlib

import numpy as np
import pytest
from rich.cells import cell_len

from data import integrity
from data.formats.scan_error import ScanError
from data.task import Case, Intensity, Modality, Scan, Task

CODES = {0: 0, 1: 1, 2: 2}
HU = Intensity((-125.0, 275.0))


def _affine(mm=(2.0, 2.0, 6.0), order=(0, 1, 2)):
  out = np.zeros((4, 4))
  for axis, (world, side) in enumerate(zip(order, mm, strict=True)):
    out[world, axis] = side
  out[3, 3] = 1
  return out


def _body(seed=0):
  image = np.random.default_rng(seed).normal(40, 10, (20, 20, 8)).round()
  image[:4] = -1000
  return image.astype(np.float32)


def _case(name, patient='', image=None, affine=None, label=True, notes=()):
  def read():
    if image is False:
      raise ScanError(f'{name}.nii', 'is broken', 'mend it')
    voxels = _body(zlib.crc32(name.encode())) if image is None else image
    drawn = np.zeros(voxels.shape, np.uint8)
    drawn[5:9] = 1
    return Scan(
      voxels,
      drawn if label else None,
      _affine() if affine is None else affine,
      notes,
    )

  modality = name.split('_')[0]
  return Case(name, patient or name, modality, (f'{name}.nii',), label, read)


def _task(*names, classes=('background', 'liver', 'spleen'), **fields):
  kinds = {'intensity': HU, 'plane': 'acquired', **fields}
  return Task(
    'x',
    classes,
    tuple(
      Modality(n, n, 'folder', n, CODES, **kinds) for n in names or ('ct',)
    ),
    64,
    'none',
  )


def _check(cases, task=None):
  ticks = []
  found = integrity.check(
    task or _task(), cases, lambda: ticks.append(1), 'place'
  )
  assert len(ticks) == len(cases)
  return found


def _sound(count=4, modality='ct'):
  return [_case(f'{modality}_{k}') for k in range(count)]


def test_sound_scans_are_described():
  cases = [*_sound(3), _case('ct_3', notes=('a remark',), label=False)]
  facts, errors = _check(cases)
  assert not errors
  row = facts[-1]
  assert row['plane'] == 'axial' and row['slices'] == 8
  assert row['slice_mm'] == 6 and row['pixel_mm'] == [2, 2]
  assert row['notes'] == ['a remark'] and row['classes'] is None
  text = integrity.text(facts, _task())
  lines = text.splitlines()
  assert '20 x 20 x 8' in lines[1] and '8 axial' in lines[1]
  assert '2.00 x 2.00' in lines[1] and '1 class (1 not in it)' in lines[1]
  assert lines[-1] == '    a remark'
  # Columns end or begin below one another.
  assert len({line.index(' axial') for line in lines[1:5]}) == 1


def test_long_and_wide_names_leave_the_other_rows_in_line():
  names = ['ct_a', 'ct_' + 80 * 'x', 'ct_患者', 'ct_Bär']
  facts, _ = _check([_case(name) for name in names])
  lines = integrity.text(facts, _task()).splitlines()[1:]
  widths = [cell_len(line[: line.index(' axial')]) for line in lines]
  assert widths[0] == widths[2] == widths[3] < widths[1]
  assert all(name in line for name, line in zip(names, lines, strict=True))


def test_every_bad_scan_is_told():
  bad = [_case('ct_7', image=False), _case('ct_8', image=False)]
  facts, errors = _check([*_sound(), *bad])
  assert len(facts) == 4
  assert [e.file for e in errors] == ['ct_7.nii', 'ct_8.nii']


def test_a_scan_that_is_cut_otherwise_than_most_is_told():
  odd = _case('ct_odd', affine=_affine(order=(0, 2, 1)))
  _, errors = _check([*_sound(), odd])
  (error,) = errors
  assert error.file == 'ct_odd.nii'
  assert 'into coronal slices' in error.reason and 'axial' in error.reason
  # Where the plane is said, all are cut alike.
  _, errors = _check([*_sound(), odd], _task(plane='axial'))
  assert not [e for e in errors if 'coronal' in e.reason]


@pytest.mark.parametrize('factor', [1 / 10, 1 / 3.2, 1 / 2.8, 2.8, 3.2, 10])
@pytest.mark.parametrize('axis', ['slice', 'pixel'])
def test_spacing_may_not_differ_by_more_than_three_times(axis, factor):
  mm = np.array([2.0, 2.0, 6.0] if axis == 'slice' else [1.0, 1.0, 40.0])
  others = [_case(f'ct_{k}', affine=_affine(mm)) for k in range(4)]
  mm[2 if axis == 'slice' else slice(2)] *= factor
  # All the same view, whatever the spacing.
  _, errors = _check(
    [*others, _case('ct_odd', affine=_affine(mm))], _task(plane='axial')
  )
  far = not 1 / 3 < factor < 3
  assert [e.file for e in errors] == ['ct_odd.nii'] * far
  if far:
    what = {'slice': 'slice distance', 'pixel': 'pixels'}[axis]
    assert errors[0].reason.startswith(what)


def test_one_scan_of_two_patients_is_told():
  copy = _body(99)
  cases = [*_sound(), _case('ct_a', image=copy), _case('ct_b', image=copy)]
  (error,) = _check(cases)[1]
  assert error.file == 'ct_b.nii' and 'as ct_a.nii' in error.reason
  cases[-1] = _case('ct_b', patient='ct_a', image=copy)
  assert not _check(cases)[1]


def test_ct_that_is_not_in_hu_is_doubted_where_the_window_is():
  odd = _case('ct_odd', image=_body() + 1024)
  _, errors = _check([*_sound(), odd])
  (error,) = errors
  assert error.file == 'ct_odd.nii' and 'offset of about 1024' in error.reason
  for intensity in (Intensity(), Intensity((0.0, 900.0))):
    assert not _check([*_sound(), odd], _task(intensity=intensity))[1]


def test_two_labelled_patients_are_too_few():
  cases = [_case(f'ct_{k}', patient=f'p{min(k, 1)}') for k in range(5)]
  _, errors = _check([*cases, _case('ct_9', label=False)])
  (error,) = errors
  assert error.file == 'place' and 'at least 3 are needed' in error.reason
  assert '15 patients are better' in error.remedy
  # A scan that cannot be read does not count.
  _, errors = _check([*_sound(2), _case('ct_7', image=False)])
  assert len(errors) == 2 and '2 labelled patients' in errors[1].reason


def test_classes_without_names_that_meet_by_accident_are_refused():
  task = _task('ct', 't2', classes=('background', 'class 1', 'liver'))
  cases = [*_sound(), *_sound(modality='t2')]
  (error,) = _check(cases, task)[1]
  assert "'class 1' is one class in ct and t2" in error.reason
  alone = _task('ct', classes=('background', 'class 1', 'liver'))
  assert not _check(_sound(), alone)[1]
