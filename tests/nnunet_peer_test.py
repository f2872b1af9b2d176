"""nnU-Net beside us: all of it but nnU-Net itself, which a script plays."""

import json
import pathlib
import shutil
import stat
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from benchmarks.nnunet import convert, run
from data import split as splits
from data.cache.prepared import PreparedCase
from data.task import ABDOMEN
from dbdc_jax.evaluation import folders
from dbdc_jax.experiments import page, plan, tables, variants
from dbdc_jax.reporting import runs

# Plays `network.py`: a label map is where the image is above its 90 % value.
PLAYED = f"""#!{sys.executable}
import json, pathlib, sys
import nibabel as nib
import numpy as np
folder = pathlib.Path(sys.argv[2]).parent
job = json.loads((folder / 'job.json').read_text())
described = json.loads(
  (folder / 'raw/Dataset001_scans/dataset.json').read_text()
)
log = (folder / 'log.txt').open('a')
if (folder.parents[1] / 'broken').exists():
  sys.exit(print('no memory left', file=log) or 3)
print(json.dumps([job, described]), file=log)
for entry in described['dataset'].values():
  assert nib.load(entry['images'][0]).shape == nib.load(entry['label']).shape
for image, out in job['predict'].items():
  pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
  found = nib.load(image)
  high = found.get_fdata() > np.percentile(found.get_fdata(), 90)
  nib.save(nib.Nifti1Image(high.astype(np.uint8), found.affine), out)
facts = {{'parameters': 5, 'train_seconds': 60.0, 'cpu_seconds': 50.0}}
(folder / 'facts.json').write_text(json.dumps({{**facts, 'steps': 7}}))
"""


@pytest.fixture
def python(tmp_path):
  """An interpreter of nnU-Net's environment, as far as the command knows."""
  path = tmp_path / 'python'
  path.write_text(PLAYED)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return str(path)


def _call(workdir, output, python, *more, recipe='separate'):
  flags = ['--run', workdir, '--output', output, '--recipe', recipe]
  return run.main([*map(str, flags), '--python', python, *more])


def _jobs(output, name):
  """What a network was asked for, call by call."""
  lines = (output / name / 'log.txt').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.parametrize('modality', ['ct', 'mr'])
def test_files_are_the_runs_own_grid_in_the_same_place(
  trained, tmp_path, modality
):
  opened = runs.read(trained[0])
  data = opened.data()
  files = convert.find(opened, data, tmp_path)
  convert.write(opened, data, files, ['labeled', 'test'])
  by_name = {source.name: source for source in _sources(opened, files)}
  for case in files.of([modality], 'test'):
    image = nib.load(files.image(case))
    label = nib.load(files.label(case))
    native = data.prepared.native_labels(case)
    np.testing.assert_array_equal(np.asarray(label.dataobj).T, native)
    np.testing.assert_allclose(image.affine, label.affine)
    # The voxel at a place, in millimetres, is the scan's own.
    scan = by_name[case.name].read()
    rng = np.random.default_rng(0)
    for _ in range(50):
      here = [int(rng.integers(n)) for n in image.shape]
      place = image.affine @ [*here, 1]
      there = np.linalg.solve(scan.affine, place)[:3]
      np.testing.assert_allclose(there, there.round(), atol=1e-3)
      theirs = scan.image[tuple(there.round().astype(int))]
      assert np.asarray(image.dataobj)[tuple(here)] == theirs


def _sources(opened, files):
  from data.readers import find_cases
  from dbdc_jax import methods
  from dbdc_jax.training import scans

  roots = scans.folders(methods.resolve(opened.config))
  return find_cases.look(list(files.modalities.values()), roots).cases


def test_an_unlabelled_scan_comes_without_its_label(trained, tmp_path):
  opened = runs.read(trained[0])
  data = opened.data()
  files = convert.find(opened, data, tmp_path)
  convert.write(opened, data, files, splits.PARTS)
  names = {
    part: {convert.file_name(case) for case in files.of(('ct', 'mr'), part)}
    for part in splits.PARTS
  }
  written = {path.name for path in (tmp_path / 'labels').iterdir()}
  assert names['unlabeled'] and not names['unlabeled'] & written
  assert written == names['labeled'] | names['validation'] | names['test']
  assert len([*(tmp_path / 'images').iterdir()]) == sum(
    map(len, names.values())
  )


def test_codes_have_no_gap_and_partial_labels_have_no_joint_network():
  ct, t2 = ABDOMEN.modalities[:2]
  # Kidneys are not drawn in this T2.
  t2 = t2._replace(codes={0: 0, 63: 1, 252: 4})
  files = convert.Files(
    pathlib.Path('x'), {}, {'ct': ct, 't2': t2}, ABDOMEN.classes
  )
  assert files.labels('t2') == {'background': 0, 'liver': 1, 'spleen': 2}
  assert list(files.labels('ct').values()) == [0, 1, 2, 3, 4]
  with pytest.raises(ValueError, match='ct and t2 are not labelled with the s'):
    convert.dataset(files, ['ct', 't2'], {})


def test_an_affine_turns_and_crops():
  # Slices from feet to head lie along the second axis, upside down.
  whole = np.diag([2.0, 3.0, 4.0, 1.0])
  geometry = {
    'original_shape': [5, 6, 7],
    'affine': whole.tolist(),
    'orientation': [[2, 1], [0, -1], [1, 1]],
    'box': [[1, 4], [2, 6], [3, 5]],
  }
  voxels = np.arange(5 * 6 * 7).reshape(5, 6, 7)
  found = convert.affine(geometry)
  turned = voxels.transpose(1, 2, 0)[::-1][1:4, 2:6, 3:5].T
  for index in np.ndindex(turned.shape):
    x, y, z = (
      np.linalg.solve(whole, found @ [*index, 1])[:3].round().astype(int)
    )
    assert turned[index] == voxels[x, y, z]


def test_a_row_is_made_and_goes_into_a_table(trained, tmp_path, python, capsys):
  workdir, ours, _ = trained
  output = tmp_path / 'out' / 'seed0'
  assert _call(workdir, output, python, '--steps=40') == 0
  row = json.loads((output / 'separate' / 'results.json').read_text())
  key = lambda case: (case['modality'], case['case'], case['patient'])
  assert [*map(key, row['cases'])] == [*map(key, ours['cases'])]
  assert row['classes'] == list(ours['classes'])
  assert list(row['run']['networks']) == ['ct', 'mr']
  assert row['run']['validation']['dice'] is not None
  _check_scores(runs.read(workdir), output, row)
  rows = tmp_path / 'rows.json'
  entry = {'name': 'nnunet', 'results': 'out/seed{seed}/separate'}
  rows.write_text(json.dumps([entry]))
  table = variants.read(str(rows), 'heart')
  options = plan.Options(tmp_path / 'tables')
  content = tables.collect(table, plan.expand(table, options), options)
  (shown,) = content['rows']
  mean = row['mean']['native_grid']['dice']
  assert (shown['n'], shown['mean']['dice']['mean']) == (1, mean)
  assert (shown['networks'], shown['minutes']['mean']) == (2, 2.0)
  assert 'nnunet' in page.markdown(content)
  assert 'trained for 2.0 min' in capsys.readouterr().out


def _check_scores(opened, output, row):
  """The row's scores against `evaluate`, and the other way against NumPy."""
  prepared = opened.data().prepared
  by_name = {case.name: case for case in prepared.cases}
  islands = 0
  for name, facts in row['run']['networks'].items():
    folder = output / name / 'predicted' / 'test'
    classes = ','.join(f'{k}={c}' for k, c in enumerate(row['classes']) if k)
    found = folders.score(
      folder, output / 'scans' / 'labels', classes=classes, quiet=True
    )
    theirs = {case['case']: case['scores'] for case in found.results['cases']}
    kept = facts['components'][name]['left ventricle']['keep_largest']
    islands += kept
    for case in row['cases']:
      if case['modality'] != name:
        continue
      for label, scored in case['native'].items():
        for metric, value in scored.items():
          same = theirs[case['case']][label][metric]
          assert value == same or np.isclose(value, same)
      file = folder / f'{case["case"]}.nii.gz'
      predicted = np.asarray(nib.load(file).dataobj).T == 1
      if kept:
        parts, _ = ndimage.label(predicted)
        predicted = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
      native = prepared.native_labels(by_name[case['case']]) == 1
      dice = 200 * (predicted & native).sum() / (predicted.sum() + native.sum())
      beside = case['beside']['native']['left ventricle']['dice']
      np.testing.assert_allclose(beside, dice)
  assert islands


def test_what_is_finished_is_not_done_again(trained, tmp_path, python):
  output = tmp_path / 'out'
  assert _call(trained[0], output, python) == 0
  before = {p: p.stat().st_mtime_ns for p in output.glob('**/predicted/*/*')}
  assert before and _call(trained[0], output, python) == 0
  assert len(_jobs(output, 'ct')) == 1
  # A label map that is missing is made again, and those alone.
  (lost, *_) = (output / 'ct' / 'predicted' / 'test').iterdir()
  lost.unlink()
  assert _call(trained[0], output, python) == 0
  assert len(_jobs(output, 'ct')) == 2 and len(_jobs(output, 'mr')) == 1
  assert lost.exists()


def test_pseudo_labels_train_once_more_in_proportion(trained, tmp_path, python):
  output = tmp_path / 'out'
  assert _call(trained[0], output, python, '--steps=30') == 0
  arguments = trained[0], output, python, '--steps=30'
  assert _call(*arguments, recipe='pseudo') == 0
  split = json.loads((pathlib.Path(trained[0]) / 'split.json').read_text())
  for name, parts in split.items():
    first, teacher = _jobs(output, name)
    assert first[0]['steps'] == teacher[0]['steps'] == 30
    stem = lambda case: case
    assert set(first[0]['split']['train']) == set(parts['labeled'])
    asked = {
      pathlib.Path(out).parent.name for out in teacher[0]['predict'].values()
    }
    assert asked == {'unlabeled'}
    ((job, described),) = _jobs(output, f'{name}_pseudo')
    both = parts['labeled'] + parts['unlabeled']
    assert job['steps'] == round(30 * len(both) / len(parts['labeled']))
    assert set(job['split']['train']) == set(both)
    assert job['split']['val'] == parts['validation']
    for case in parts['unlabeled']:
      label = pathlib.Path(described['dataset'][stem(case)]['label'])
      assert label.parent == output / name / 'predicted' / 'unlabeled'
    # No test scan is trained on.
    assert set(described['dataset']) == {*both, *parts['validation']}
  row = json.loads((output / 'pseudo' / 'results.json').read_text())
  # The time of both rounds counts.
  assert row['run']['networks']['ct']['train_seconds'] == 120.0


def test_one_network_for_both_takes_z_scores(trained, tmp_path, python):
  output = tmp_path / 'out'
  arguments = trained[0], output, python, '--steps=30'
  assert _call(*arguments, recipe='joint') == 0
  ((job, described),) = _jobs(output, 'ct+mr')
  assert described['channel_names'] == {'0': 'zscore'}
  # As many steps as two networks have.
  assert job['steps'] == 60
  row = json.loads((output / 'joint' / 'results.json').read_text())
  assert list(row['modalities']) == ['ct', 'mr']
  assert list(row['run']['networks']) == ['ct,mr']
  assert _call(*arguments) == 0
  (_, alone), (_, mr) = *_jobs(output, 'ct'), *_jobs(output, 'mr')
  assert alone['channel_names'] == {'0': 'CT'}
  assert mr['channel_names'] == {'0': 'zscore'}
  assert list(alone['labels'].values()) == [*range(8)]


def test_other_settings_and_others_folders_are_refused(
  trained, tmp_path, python, capsys
):
  output = tmp_path / 'out'
  assert _call(trained[0], output, python) == 0
  assert _call(trained[0], output, python, '--batch=9') == 1
  err = capsys.readouterr().err
  assert 'other settings' in err and 'batch: 4 -> 9' in err
  mine = tmp_path / 'mine'
  mine.mkdir()
  (mine / 'a.txt').write_text('mine')
  assert _call(trained[0], mine, python) == 1
  assert 'not of this command: choose another' in capsys.readouterr().err
  assert [path.name for path in mine.iterdir()] == ['a.txt']


def test_what_goes_wrong_is_one_sentence(trained, tmp_path, python, capsys):
  output = tmp_path / 'out'
  missing = str(tmp_path / 'no_python')
  assert _call(trained[0], output, missing) == 1
  assert f'--python {missing}: cannot be started' in capsys.readouterr().err
  (tmp_path / 'broken').touch()
  assert _call(trained[0], output, python) == 1
  err = capsys.readouterr().err
  assert 'ct: nnU-Net ended with exit code 3' in err and 'no memory left' in err
  (tmp_path / 'broken').unlink()
  shutil.rmtree(output / 'ct')
  assert _call(trained[0], output, python) == 0
  assert _call(tmp_path, tmp_path / 'other', python) == 1
  assert 'give the workdir of one' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    _call(trained[0], tmp_path / 'other', python, '--steps=0')
  assert '--steps 0: give more than 0' in capsys.readouterr().err


def test_a_run_without_labelled_scans_is_refused(trained, tmp_path):
  opened = runs.read(trained[0])
  data = opened.data()
  data.split['mr']['labeled'] = []
  with pytest.raises(ValueError, match='mr has no labelled training scan'):
    convert.find(opened, data, tmp_path)


def test_long_and_odd_names_are_files_of_their_own():
  case = lambda name: PreparedCase(name, *[None] * 10)
  files = convert.Files(pathlib.Path('x'), {}, {}, ())
  odd = case('ct/größe 1'), case('a' * 300), case('a' * 301)
  paths = {files.image(c) for c in odd} | {files.label(c) for c in odd}
  assert len(paths) == 6
  assert all(len(path.name.encode()) < 256 for path in paths)
