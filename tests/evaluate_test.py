"""The command on small folders: what it writes, prints and returns."""

import csv
import json
import subprocess
import sys

import grids
import nibabel as nib
import numpy as np
import pytest

from data.volume_io import write_nifti
from dbdc_jax import evaluate
from dbdc_jax.evaluation import case_pool, metrics

SPACING = (2.0, 0.8, 1.5)
SHAPE = (7, 8, 9)


def _affine(case):
  """Another orientation and a tilt for each case."""
  t = 0.1 * (case + 1)
  tilt = np.array(
    [[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]]
  )
  codes = grids.ORIENTATIONS[11 * case % 48]
  return grids.affine_of(codes, SPACING, (5, -40, 3), tilt)


def _label(seed):
  rng = np.random.default_rng(seed)
  return rng.choice([0, 2, 600], p=[0.6, 0.3, 0.1], size=SHAPE).astype(np.int16)


@pytest.fixture
def folders(tmp_path):
  """Three cases; the last one's reference lacks code 600."""
  for kind, start in (('prediction', 0), ('reference', 50)):
    (tmp_path / kind).mkdir()
    for case in range(3):
      label = _label(start + case)
      if kind == 'reference' and case == 2:
        label[label == 600] = 0
      suffix = 'nii' if kind == 'reference' and case == 1 else 'nii.gz'
      path = tmp_path / kind / f'case{case}.{suffix}'
      write_nifti(path, label, _affine(case))
    (tmp_path / kind / 'notes.txt').write_text('not a label map')
    (tmp_path / kind / '._case0.nii.gz').write_bytes(b'\0')
  return tmp_path


def _run(folders, *flags):
  wanted = [f'--{k}={folders / k}' for k in ('prediction', 'reference')]
  out = folders / 'out'
  code = evaluate.main([*wanted, f'--output={out}', '--workers=1', *flags])
  path = out / 'evaluation.json'

  def refuse(word):
    raise AssertionError(f'{word} in {path}')

  read = path.exists() and json.loads(path.read_text(), parse_constant=refuse)
  return code, read


def test_numbers_are_those_of_the_masks(folders):
  code, found = _run(folders, '--classes=2=a,600=b', '--tolerance=1.2')
  assert code == 0
  assert found['cases_scored'] == found['cases_found'] == 3
  case = found['cases'][1]
  assert case['case'] == 'case1'
  assert case['spacing_mm'] == pytest.approx(SPACING, rel=1e-6)
  p, r = _label(1) == 600, _label(51) == 600
  pair = p, r, SPACING
  assert case['scores']['b'].pop('empty') == ''
  assert case['scores']['b'] == pytest.approx(
    {
      'dice': 100 * 2 * (p & r).sum() / (p.sum() + r.sum()),
      'hd95': metrics.hd95(*pair),
      'hd95_union_voxel': metrics.hd95_union_voxel(p, r),
      'assd': metrics.assd(*pair),
      'nsd': 100 * metrics.nsd(*pair, 1.2),
      'volume_prediction': p.sum() * np.prod(SPACING) / 1000,
      'volume_reference': r.sum() * np.prod(SPACING) / 1000,
    },
    rel=1e-5,
  )
  assert '1.2 mm' in found['definitions']['nsd']['definition']


def test_means_spreads_and_empty_masks(folders, capsys):
  _, found = _run(folders)
  assert found['classes'] == {'2': [2], '600': [600]}
  values = [case['scores']['600']['dice'] for case in found['cases']]
  entry = found['summary']['classes']['600']
  assert entry['dice'] == pytest.approx(np.mean(values))
  assert entry['spread']['dice'] == pytest.approx(np.std(values, ddof=1))
  assert (entry['cases'], entry['one_empty'], entry['both_empty']) == (3, 1, 0)
  last = found['cases'][2]['scores']['600']
  assert last['dice'] == last['nsd'] == 0 and last['volume_reference'] == 0
  diagonal = np.linalg.norm(np.array(SHAPE) * SPACING)
  assert last['hd95'] == last['assd'] == pytest.approx(diagonal)
  means = [c['dice'] for c in found['summary']['classes'].values()]
  assert found['summary']['mean']['dice'] == pytest.approx(np.mean(means))
  text = capsys.readouterr().out
  assert f'{entry["dice"]:.2f} ± {entry["spread"]["dice"]:.2f}' in text
  assert '3 of 3 cases scored' in text


def test_every_number_has_its_definition(folders):
  _, found = _run(folders)
  for name in found['cases'][0]['scores']['2'].keys() - {'empty'}:
    entry = found['definitions'][name]
    assert all(entry[k] for k in ('definition', 'unit', 'empty', 'aggregation'))


def test_csv_holds_the_scores_of_the_json(folders):
  _, found = _run(folders, '--classes=2,600,7=absent')
  with (folders / 'out' / 'evaluation.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 3 * 3
  for row in rows:
    case = found['cases'][int(row['case'][-1])]
    scores = case['scores'][row['class']]
    assert row['empty'] == scores['empty']
    for column, value in row.items():
      name = column.rpartition('_')[0]
      if name in scores and scores[name] is not None:
        assert float(value) == pytest.approx(scores[name], abs=1e-4)
      elif name in scores:
        assert value == ''
  assert rows[2]['empty'] == 'both empty' and rows[2]['hd95_mm'] == ''


def test_codes_without_a_class_are_told(folders, capsys):
  path = folders / 'prediction' / 'case0.nii.gz'
  label = _label(0)
  label[0, 0, :2], label[1, 1, 1] = 9, -3
  write_nifti(path, label, _affine(0))
  code, found = _run(folders)
  assert code == 0 and list(found['classes']) == ['2', '600']
  once = {'prediction': 1, 'reference': 0}
  assert found['codes_not_scored'] == {'-3': once, '9': once}
  assert 'codes not scored: -3 (1 predictions' in capsys.readouterr().out
  _, found = _run(folders, '--classes=2')
  assert found['codes_not_scored']['600'] == {'prediction': 3, 'reference': 2}


def test_codes_of_one_name_are_one_class(folders):
  _, found = _run(folders, '--classes=2=any,600=any')
  p, r = _label(0) > 0, _label(50) > 0
  assert found['cases'][0]['scores']['any']['dice'] == pytest.approx(
    100 * 2 * (p & r).sum() / (p.sum() + r.sum())
  )
  assert found['classes'] == {'any': [2, 600]}


def test_codes_far_apart_are_kept_apart(folders):
  for kind in ('prediction', 'reference'):
    label = _label(7).astype(np.int32)
    label[label == 600] = 2_000_000_000
    label[label == 2] = -2_000_000_000
    name = 'case0.nii.gz'
    write_nifti(folders / kind / name, label, _affine(0))
  _, found = _run(folders, '--classes=2000000000=far,-2000000000=low')
  first = found['cases'][0]['scores']
  assert first['far']['dice'] == first['low']['dice'] == 100
  volume = (_label(7) == 600).sum() * np.prod(SPACING) / 1000
  assert first['far']['volume_reference'] == pytest.approx(volume)


def test_missing_partners_are_listed_together(folders, capsys):
  (folders / 'prediction' / 'case0.nii.gz').unlink()
  (folders / 'reference' / 'case1.nii').rename(
    folders / 'reference' / 'other.nii'
  )
  code, found = _run(folders)
  captured = capsys.readouterr()
  assert code == 1
  assert '1 of 4 cases scored' in captured.out
  for text in ('no prediction case0', 'no prediction other', 'case1.nii.gz'):
    assert text in captured.err
  assert '--allow-missing' in captured.err
  assert [case['case'] for case in found['cases']] == ['case2']
  code, found = _run(folders, '--allow-missing')
  assert code == 0 and len(found['missing']) == 3
  assert 'not scored' not in capsys.readouterr().err


def test_bad_cases_are_in_one_table_and_the_others_scored(folders, capsys):
  def write(kind, name, voxels, affine=None):
    affine = _affine(0) if affine is None else affine
    write_nifti(folders / kind / f'{name}.nii.gz', voxels, affine)

  write('prediction', 'case0', _label(0)[1:])
  sheared = _affine(0) @ (np.eye(4) + 0.2 * np.eye(4, k=1))
  moved = _affine(0) + 2 * np.eye(4, k=3)
  for name, p, r, affine in (
    ('moved', _label(0), _label(1), moved),
    ('parts', _label(0) + np.float32(0.5), _label(1), None),
    ('image', np.arange(504).reshape(SHAPE).astype(np.int16), _label(1), None),
    ('cut', _label(0), _label(1), None),
  ):
    write('prediction', name, p, affine)
    write('reference', name, r)
  for kind in ('prediction', 'reference'):
    # Without a qform, which knows no shear.
    image = nib.Nifti1Image(_label(0), None)
    image.set_sform(sheared, 1)
    image.to_filename(folders / kind / 'sheared.nii')
  cut = folders / 'reference' / 'cut.nii.gz'
  cut.write_bytes(cut.read_bytes()[:-9])
  code, found = _run(folders)
  captured = capsys.readouterr()
  assert code == 1 and '2 of 8 cases scored' in captured.out
  assert [case['case'] for case in found['cases']] == ['case1', 'case2']
  expected = {
    'case0': 'shape (6, 8, 9), the reference has (7, 8, 9)',
    'moved': 'lies elsewhere',
    'parts': 'not whole numbers',
    'image': '503 different label codes',
    'cut': 'truncated',
    'sheared': 'right angles',
  }
  reasons = {
    row['file'].rpartition('/')[2].split('.')[0]: row for row in found['bad']
  }
  assert reasons.keys() == expected.keys()
  for name, text in expected.items():
    assert text in reasons[name]['reason'] and reasons[name]['remedy']
    assert f'{reasons[name]["reason"]} | {reasons[name]["remedy"]}' in (
      captured.err
    )


def test_no_good_case_leaves_no_old_scores_behind(folders):
  _run(folders)
  for file in (folders / 'prediction').glob('case*'):
    file.write_bytes(b'')
  code, found = _run(folders)
  assert code == 1
  assert found['cases'] == [] and found['summary']['mean']['dice'] is None
  assert len(found['bad']) == 3


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--classes=liver'], 'is no label code'),
    (['--prediction=absent'], 'absent | is not there'),
    (['--reference={}/empty'], 'holds no label map'),
    (['--reference={}/prediction'], 'the same folder'),
  ],
)
def test_wrong_arguments_end_with_the_reason(folders, capsys, flags, message):
  (folders / 'empty').mkdir()
  code, found = _run(folders, *(flag.format(folders) for flag in flags))
  assert code == 1 and not found
  assert message in capsys.readouterr().err


@pytest.mark.parametrize('flag', ['--workers=0', '--tolerance=nan'])
def test_numbers_must_be_positive(folders, flag, capsys):
  with pytest.raises(SystemExit) as caught:
    _run(folders, flag)
  assert caught.value.code == 2
  assert 'positive' in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_named(folders, capsys):
  (folders / 'out').write_text('a file')
  flags = [f'--{k}={folders / k}' for k in ('prediction', 'reference')]
  assert evaluate.main([*flags, f'--output={folders / "out"}']) == 1
  assert str(folders / 'out') in capsys.readouterr().err


def test_too_little_memory_is_a_row(folders, capsys, monkeypatch):
  def nothing_left(*args):
    raise MemoryError

  monkeypatch.setattr(evaluate.case_scores.scoring, 'score', nothing_left)
  code, found = _run(folders)
  assert code == 1 and len(found['bad']) == 3
  assert '--workers=1' in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(folders, capsys, monkeypatch):
  def stop(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(case_pool, 'run', stop)
  code, found = _run(folders)
  assert code == 130 and not found
  assert 'nothing was written' in capsys.readouterr().err


def test_two_processes_give_the_same_files(folders):
  _run(folders, '--classes=2,600')
  names = ('evaluation.json', 'evaluation.csv')
  alone = [(folders / 'out' / name).read_bytes() for name in names]
  flags = [f'--{k}={folders / k}' for k in ('prediction', 'reference')]
  flags += [f'--output={folders / "out"}', '--workers=2', '--classes=2,600']
  done = subprocess.run(
    [sys.executable, '-m', 'dbdc_jax.evaluate', *flags],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert '3 of 3 cases scored' in done.stdout and '3/3' in done.stderr
  assert alone == [(folders / 'out' / name).read_bytes() for name in names]
