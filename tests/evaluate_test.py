"""The command on small folders: what it writes, prints and returns."""

import csv
import errno
import json
import os
import subprocess
import sys
import tempfile

import grids
import masks
import nibabel as nib
import numpy as np
import pytest

from data.formats.nifti import write_nifti
from data.formats.scan_error import ScanError
import dbdc_jax
from dbdc_jax import evaluate
from dbdc_jax.evaluation import case_pool, case_scores, matching

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


def _main(folders, output, *flags):
  wanted = [f'--{k}={folders / k}' for k in ('prediction', 'reference')]
  return evaluate.main([*wanted, f'--output={output}', '--workers=1', *flags])


def _run(folders, *flags):
  code = _main(folders, folders / 'out', *flags)
  path = folders / 'out' / 'evaluation.json'

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
      'hd95': masks.compare(*pair)['hd95'],
      'hd95_union_voxel': masks.compare(p, r, (1, 1, 1))['hd95_union'],
      'assd': masks.compare(*pair)['assd'],
      'nsd': 100 * masks.compare(*pair, 1.2)['nsd'],
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


def test_too_little_memory_is_a_row(folders, capsys, monkeypatch):
  def nothing_left(*args):
    raise MemoryError

  monkeypatch.setattr(case_scores.scoring, 'score', nothing_left)
  code, found = _run(folders)
  assert code == 1 and len(found['bad']) == 3
  assert '--workers=1' in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(folders, capsys, monkeypatch):
  def stop(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(case_pool, 'run', stop)
  code, found = _run(folders)
  assert code == 130 and not found
  assert '\nstopped: ' in capsys.readouterr().err


def test_a_program_gets_the_numbers_that_the_command_writes(folders):
  code, written = _run(folders, '--classes=2=a,600=b')
  found = dbdc_jax.score(
    folders / 'prediction',
    folders / 'reference',
    classes='2=a,600=b',
    workers=1,
  )
  assert code == 0 and not found.missing and not found.problems
  assert json.loads(json.dumps(found.results)) == written


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


def _truth(folders, case):
  """The label maps' own arrays, whatever order their axes are written in."""
  return [
    np.asanyarray(nib.load(folders / kind / f'{case}.nii.gz').dataobj)
    for kind in ('prediction', 'reference')
  ]


def test_what_nobody_annotated_is_neither_right_nor_wrong(folders, capsys):
  path = folders / 'reference' / 'case0.nii.gz'
  label = _label(50)
  label[:3], label[4, 4, 4] = 255, 255
  write_nifti(path, label, _affine(0))
  _, found = _run(folders, '--classes=2=a,600=b,255=ignore', '--tolerance=1')
  assert found['ignored']['codes'] == [255] and found['ignored']['rule']
  case = found['cases'][0]
  unknown = label == 255
  volume = np.prod(SPACING) / 1000
  assert case['ignored_ml'] == pytest.approx(unknown.sum() * volume)
  prediction, _ = _truth(folders, 'case0')
  for name, code in (('a', 2), ('b', 600)):
    p, r = (prediction == code) & ~unknown, label == code
    scores = case['scores'][name]
    assert scores['dice'] == pytest.approx(
      100 * 2 * (p & r).sum() / (p.sum() + r.sum())
    )
    assert scores['volume_prediction'] == pytest.approx(p.sum() * volume)
    expected = masks.compare(p, r, SPACING, 1.0)
    for metric in ('hd95', 'assd'):
      assert scores[metric] == pytest.approx(expected[metric], rel=1e-5)
    assert scores['nsd'] == pytest.approx(100 * expected['nsd'])
  assert found['cases'][1]['ignored_ml'] == 0
  assert 'with code 255 in the references' in capsys.readouterr().out


def test_what_is_predicted_where_nobody_annotated_changes_nothing(folders):
  path = folders / 'reference' / 'case0.nii.gz'
  label = _label(50)
  label[:3] = 255
  write_nifti(path, label, _affine(0))
  _, before = _run(folders, '--classes=2,600,255=ignore')
  prediction = _label(0)
  prediction[:3] = 600
  write_nifti(folders / 'prediction' / path.name, prediction, _affine(0))
  _, after = _run(folders, '--classes=2,600,255=ignore')
  assert after['cases'] == before['cases']


def _partly(folders, **fields):
  path = folders / 'dataset.json'
  labels = {'a': 2, 'b': 600}
  kinds = {'ct': {'labels': labels, **fields}, 'mr': {'labels': labels}}
  path.write_text(json.dumps({'modalities': kinds}))
  return path


def test_what_nobody_drew_has_no_score(folders, capsys):
  """Classes of a label map, and (axial) slices."""
  drawn = {'case2': ['a']}
  file = _partly(folders, drawn=drawn, sparse={'case0': [1, 4]})
  label = _label(50)
  label[..., [0, 2, 3, 5, 6, 7, 8]] = 0
  write_nifti(folders / 'reference' / 'case0.nii.gz', label, _affine(0))
  code, found = _run(folders, f'--classes={file}:ct')
  first, second, third = found['cases']
  prediction, reference = _truth(folders, 'case0')
  p, r = ((x == 600)[..., [1, 4]] for x in (prediction, reference))
  scores = first['scores']['b']
  dice = 100 * 2 * (p & r).sum() / (p.sum() + r.sum())
  assert code == 0 and scores['dice'] == pytest.approx(dice)
  volume = np.prod(SPACING) / 1000
  assert scores['volume_prediction'] == pytest.approx(p.sum() * volume)
  assert first['ignored_ml'] == pytest.approx(7 * 8 * 7 * volume)
  assert third['not_drawn'] == ['b'] and [*third['scores']] == ['a']
  assert first['not_drawn'] == second['not_drawn'] == []
  # Of the two cases that have one.
  both = [case['scores']['b']['dice'] for case in (first, second)]
  entry = found['summary']['classes']['b']
  assert entry['cases'] == 2 and entry['dice'] == pytest.approx(np.mean(both))
  rows = (folders / 'out' / 'evaluation.csv').read_text()
  assert 'case2,a' in rows and 'case2,b' not in rows
  out = capsys.readouterr().out
  assert 'not drawn, so without a score: b (1 references)' in out
  assert 'mL not drawn in the references' in out


def test_a_class_that_nobody_drew_anywhere_is_no_row(folders, capsys):
  for case in range(3):
    path = folders / 'reference' / f'case{case}.nii.gz'
    path.with_suffix('').unlink(missing_ok=True)
    label = _label(50 + case)
    write_nifti(path, np.where(label == 600, 0, label), _affine(case))
  drawn = {f'case{case}': ['a'] for case in range(3)}
  file = _partly(folders, drawn=drawn)
  code, found = _run(folders, f'--classes={file}:ct')
  assert code == 0 and [*found['summary']['classes']] == ['a']
  assert 'b (3 references)' in capsys.readouterr().out


def test_what_was_drawn_must_be_so(folders, capsys):
  """A reference that has more, and two modalities that differ in it."""
  file = _partly(folders, drawn={'case0': ['a']})
  code, found = _run(folders, f'--classes={file}:ct')
  assert code == 1 and [c['case'] for c in found['cases']] == ['case1', 'case2']
  assert 'were not drawn in it' in capsys.readouterr().err
  assert _main(folders, folders / 'other', f'--classes={file}') == 1
  assert 'says for each modality what was drawn' in capsys.readouterr().err


def test_255_and_negative_codes_are_no_classes_unless_asked_for(
  folders, capsys
):
  for kind in ('prediction', 'reference'):
    label = _label(3)
    label[0], label[1] = 255, -1
    write_nifti(folders / kind / 'case0.nii.gz', label, _affine(0))
  code, found = _run(folders)
  assert code == 0 and list(found['classes']) == ['2', '600']
  once = {'prediction': 1, 'reference': 1}
  assert found['codes_not_scored'] == {'-1': once, '255': once}
  assert '--classes=255=NAME' in capsys.readouterr().out
  _, found = _run(folders, '--classes=-1=low,255=high')
  scores = found['cases'][0]['scores']
  assert scores['low']['dice'] == scores['high']['dice'] == 100


def test_masks_of_0_and_255_are_not_scored_as_nothing(folders, capsys):
  for kind in ('prediction', 'reference'):
    for file in (folders / kind).glob('case*'):
      voxels = np.where(np.asanyarray(nib.load(file).dataobj), 255, 0)
      write_nifti(file, voxels.astype(np.uint8), nib.load(file).affine)
  code, found = _run(folders)
  assert code == 1 and found['classes'] == {}
  assert (
    'no class is in any reference; they hold 255' in capsys.readouterr().err
  )
  code, found = _run(folders, '--classes=255=organ')
  assert code == 0 and found['summary']['classes']['organ']['cases'] == 3


def test_classes_that_are_numbered_in_two_ways_are_asked_about(folders, capsys):
  for file in (folders / 'prediction').glob('case*'):
    voxels = np.asanyarray(nib.load(file).dataobj).copy()
    voxels[voxels == 600] = 255
    write_nifti(file, voxels, nib.load(file).affine)
  asked = 'give them one name: --classes=600=NAME,255=NAME'
  _run(folders)
  assert asked in capsys.readouterr().out
  _, found = _run(folders, '--classes=2,600=b,255=b')
  assert asked not in capsys.readouterr().out
  assert found['cases'][0]['scores']['b']['volume_prediction'] > 0


def test_classes_that_no_reference_has_are_an_error(folders, capsys):
  file = folders / 'prediction' / 'case0.nii.gz'
  label = _label(0)
  label[label == 2] = 1
  write_nifti(file, label, _affine(0))
  # The first occurs nowhere, the second is predicted once.
  for classes in ('7=spleen', '1=liver'):
    assert _run(folders, f'--classes={classes}')[0] == 1
    assert 'in any reference; they hold 2, 600' in capsys.readouterr().err
  assert _run(folders, '--classes=1=liver,2=b')[0] == 0


@pytest.mark.parametrize('found', [0, 1])
def test_references_may_be_of_the_healthy(folders, capsys, found):
  for kind, code in (('prediction', found), ('reference', 0)):
    for file in (folders / kind).glob('case*'):
      voxels = np.full(SHAPE, code, np.uint8)
      write_nifti(file, voxels, nib.load(file).affine)
  code, results = _run(folders, '--classes=1=lesion')
  assert code == 0
  entry = results['summary']['classes']['lesion']
  assert (entry['one_empty'], entry['both_empty']) == (3 * found, 3 - 3 * found)
  assert _run(folders)[0] == 1
  assert 'no reference has a code above 0' in capsys.readouterr().err


@pytest.mark.parametrize('classes', [[], ['--classes=2,600']])
def test_an_image_is_no_label_map_whatever_is_asked_for(
  folders, capsys, classes
):
  image = np.random.default_rng(1).integers(0, 200, SHAPE).astype(np.int16)
  write_nifti(folders / 'reference' / 'case0.nii.gz', image, _affine(0))
  code, found = _run(folders, *classes)
  assert code == 1 and found['cases_scored'] == 2
  error = capsys.readouterr().err
  assert 'reference/case0.nii.gz' in error and 'an image, not a label' in error


def test_many_regions_are_no_image(folders):
  # 504 voxels in blocks of 2 x 2 x 3: 48 regions.
  x, y, z = np.indices(SHAPE)
  label = (x // 2 * 12 + y // 2 * 3 + z // 3 + 1).astype(np.int16)
  for kind in ('prediction', 'reference'):
    write_nifti(folders / kind / 'case0.nii.gz', label, _affine(0))
  code, found = _run(folders)
  assert code == 0 and len(found['classes']) == 49  # And code 600.


@pytest.mark.parametrize('codes', grids.ORIENTATIONS[::5])
def test_the_order_of_axes_in_a_file_changes_no_score(folders, codes):
  file = folders / 'prediction' / 'case1.nii.gz'
  _, before = _run(folders)
  image = nib.load(file)
  orientation = nib.orientations
  turn = orientation.ornt_transform(
    orientation.io_orientation(image.affine),
    orientation.axcodes2ornt(tuple(codes)),
  )
  turned = image.as_reoriented(turn)
  write_nifti(file, np.asanyarray(turned.dataobj), turned.affine)
  code, after = _run(folders)
  assert code == 0
  case = after['cases'][1]
  assert case['scores'] == before['cases'][1]['scores']
  same = np.array_equal(turned.affine, image.affine)
  assert bool(case['notes']) is not same


def test_an_error_that_nobody_thought_of_is_a_row(folders, capsys, monkeypatch):
  read = case_scores.scan_files.read

  def fail(source, **flags):
    if 'case1' in source.name and source.path.parent.name == 'prediction':
      raise ZeroDivisionError('of a library')
    return read(source, **flags)

  monkeypatch.setattr(case_scores.scan_files, 'read', fail)
  code, found = _run(folders)
  assert code == 1 and found['cases_scored'] == 2
  (row,) = found['bad']
  assert row['file'].endswith('prediction/case1.nii.gz')
  assert 'ZeroDivisionError: of a library' in capsys.readouterr().err


def test_a_file_that_cannot_be_used_is_told_and_the_others_scored(
  folders, capsys
):
  (folders / 'reference' / 'case0.nii.gz').unlink()
  (folders / 'reference' / 'case0.nii.gz').symlink_to('/annex/x')
  code, found = _run(folders)
  assert code == 1 and found['cases_scored'] == 2 and found['cases_found'] == 3
  assert 'case0' in capsys.readouterr().err


def test_listings_are_told(folders, capsys, monkeypatch):
  find = matching.scan_files.find

  def with_more(place, **flags):
    bad = ScanError(place / 'bad.img', 'its header is missing', 'add it')
    text = ScanError(place / 'read.me', 'is no scan', 'nothing')
    own = [ScanError(place / n, 'is no scan', '') for n in matching.OURS]
    return find(place, **flags)._replace(problems=[bad], left_out=[text, *own])

  monkeypatch.setattr(matching.scan_files, 'find', with_more)
  code, found = _run(folders, '--allow-missing')
  said = capsys.readouterr()
  assert code == 1 and found['cases_scored'] == 3
  assert found['cases_found'] == 4
  assert said.err.count('its header is missing | add it') == 2
  assert 'left out, no label maps: read.me, read.me\n' in said.out


def test_what_predict_writes_is_taken_as_it_is(folders):
  place = folders / 'prediction'
  for case in range(3):
    values = np.full(SHAPE, 0.1, np.float32)
    write_nifti(place / f'case{case}_entropy.nii.gz', values, _affine(case))
  (place / 'predictions.json').write_text('{}')
  (place / 'volumes.csv').write_text('scan\n')
  (place / 'overlays').mkdir()
  (place / 'overlays' / 'case0.png').write_bytes(b'\x89PNG')
  code, found = _run(folders)
  assert code == 0 and found['cases_found'] == 3


def _snapshot(folder):
  return {
    p.relative_to(folder): p.read_bytes()
    for p in sorted(folder.rglob('*'))
    if p.is_file()
  }


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('evaluation.json', '{"cases": []}'),
    ('evaluation.json', 'notes'),
    ('evaluation.json', '\udcff'),
    ('evaluation.csv', 'case,class,dice\n1,2,3\n'),
    ('evaluation.csv', ''),
  ],
)
def test_files_of_the_user_are_never_replaced(folders, capsys, name, content):
  out = folders / 'out'
  out.mkdir()
  (out / name).write_bytes(content.encode(errors='surrogateescape'))
  before = _snapshot(folders)
  assert _main(folders, out) == 1 and _snapshot(folders) == before
  assert f'{out / name}: is there, and no evaluation' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['folder', 'link'])
def test_neither_is_anything_else_of_that_name(folders, kind):
  (folders / 'out').mkdir()
  path = folders / 'out' / 'evaluation.csv'
  path.mkdir() if kind == 'folder' else path.symlink_to('/annex/x')
  assert _main(folders, folders / 'out') == 1
  assert path.is_dir() if kind == 'folder' else path.is_symlink()
  assert [p.name for p in (folders / 'out').iterdir()] == [path.name]


@pytest.mark.parametrize('where', ['prediction', 'reference', 'reference/e'])
def test_results_may_lie_beside_label_maps(folders, where):
  before = _snapshot(folders)
  assert _main(folders, folders / where) == 0
  first = _snapshot(folders)
  assert _main(folders, folders / where) == 0
  assert _snapshot(folders) == first and before.items() <= first.items()
  names = {p.name for p in first.keys() - before.keys()}
  assert names == {'evaluation.json', 'evaluation.csv'}


@pytest.mark.parametrize('output', ['out', 'out/deeper'])
def test_an_output_that_cannot_be_a_folder_is_said_at_once(
  folders, capsys, monkeypatch, output
):
  (folders / 'out').write_text('a file')
  monkeypatch.setattr(case_pool, 'run', None)  # Nothing is computed.
  assert _main(folders, folders / output) == 1
  assert f'{folders / output}: ' in capsys.readouterr().err
  assert (folders / 'out').read_text() == 'a file'


def test_a_folder_that_takes_no_file_is_said_at_once(
  folders, capsys, monkeypatch
):
  def refuse(**where):
    raise OSError(errno.EROFS, 'Read-only file system')

  monkeypatch.setattr(tempfile, 'TemporaryFile', refuse)
  monkeypatch.setattr(case_pool, 'run', None)
  assert _run(folders)[0] == 1
  assert 'written into (Read-only file system)' in capsys.readouterr().err


def test_terminals_without_the_letters_get_their_codes(folders):
  for kind in ('prediction', 'reference'):
    file = folders / kind / 'case0.nii.gz'
    file.rename(file.with_name('Größe\udcff.nii.gz'))
  (folders / 'prediction' / 'Ähre.nii').write_bytes(b'')
  flags = [f'--{k}={folders / k}' for k in ('prediction', 'reference')]
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'dbdc_jax.evaluate', *flags),
      *('--workers=1', f'--output={folders / "out"}'),
    ],
    capture_output=True,
    env=os.environ | {'PYTHONIOENCODING': 'ascii'},
  )
  assert done.returncode == 1 and b'Traceback' not in done.stderr
  assert rb'\xc4hre.nii' in done.stderr and b'3 of 4 cases' in done.stdout
