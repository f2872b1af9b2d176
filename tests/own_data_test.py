"""From a user's folder to a trained run and label maps: partial labels."""

import json

import nibabel as nib
import numpy as np
import own_scans
import tiny

from data.formats import nifti
from dbdc_jax import evaluate, predict, report
from dbdc_jax.training import train
from dbdc_jax.workdir.metric_writer import read_rows


def test_classes_without_labels_are_in_no_score(own_run):
  _, _, results = own_run
  assert results['classes'] == [
    'background',
    'liver',
    'right kidney',
    'left kidney',
    'spleen',
  ]
  scored = {
    name: set(entry['native_grid']['classes'])
    for name, entry in results['modalities'].items()
  }
  assert scored['t2'] == {'liver', 'spleen'}
  assert scored['ct'] == scored['t2'] | {'right kidney', 'left kidney'}
  for case in results['cases']:
    assert set(case['native']) == scored[case['modality']]


def test_the_scan_without_a_label_map_is_unlabelled_and_the_others_decide(
  own_run,
):
  _, workdir, _ = own_run
  split = json.loads((workdir / 'split.json').read_text())
  assert len(split['t2']['unlabeled']) == 1
  # All of the training patients with labels, not a fifth of them.
  assert len(split['t2']['labeled']) == 2
  assert not split['ct']['unlabeled'] and len(split['ct']['labeled']) == 3


def test_the_results_are_those_with_the_chosen_components(own_run):
  _, _, results = own_run
  assert results['run']['components'] == 'validation' and results['beside']


def test_predictions_hold_the_folders_own_codes(own_run, tmp_path):
  place, workdir, _ = own_run
  flags = ['--run', str(workdir), '--modality', 't2', '--output', str(tmp_path)]
  flags += ['--input', str(place / 't2' / 'images')]
  assert predict.main(flags) == 0
  scans = sorted((place / 't2' / 'images').iterdir())
  assert len(scans) == 5
  for path in scans:
    found = nib.load(tmp_path / path.name)
    assert found.shape == nib.load(path).shape
    assert set(np.unique(np.asanyarray(found.dataobj))) <= {0, 1, 4}


def test_it_can_be_tested_again(own_run, cache):
  place, workdir, results = own_run
  config = tiny.own_config(place, cache)
  config.eval_only = True
  again = train.train(config, str(workdir))
  assert again['mean'] == results['mean']


def test_label_maps_that_leave_something_open_go_through_a_run(
  tmp_path, cache, capsys
):
  """Some organs of some scans, some slices, voxels that nobody looked at."""
  place = tmp_path / 'scans'
  own_scans.write(place, cache, unlabeled=0)
  path = place / 'dataset.json'
  task = json.loads(path.read_text())
  ct, t2 = task['modalities'].values()
  labels = ['liver', 'right kidney', 'left kidney', 'spleen']
  ct['labels']['ignore'] = 255
  t2['sparse'] = True
  rows, maps = ['case,liver,right kidney,left kidney,spleen'], {}
  for number, file in enumerate(sorted((place / 'ct' / 'labels').iterdir())):
    found = nib.load(file)
    label = np.asanyarray(found.dataobj).copy()
    if number % 2:
      label[label != 6] = 0
      rows.append(f'{file.name.removesuffix(".nii.gz")},1,0,0,0')
    label[:2] = 255
    nifti.write_nifti(file, label, found.affine)
    maps[f'ct_{file.name.removesuffix(".nii.gz")}'] = number
  (place / 'drawn.csv').write_text('\n'.join(rows))
  ct['drawn'] = 'drawn.csv'
  path.write_text(json.dumps(task))
  config = tiny.own_config(place, cache)
  config.update_from_flattened_dict(tiny.PLAIN | {'epochs': 2})
  results = train.train(config, str(tmp_path / 'run'))
  for case in results['cases']:
    if case['modality'] == 'ct':
      some = {'liver'} if maps[case['case']] % 2 else {*results['classes'][1:]}
      assert set(case['native']) == some
    else:
      assert set(case['native']) == {'liver', 'spleen'}
  losses = [row['loss'] for row in read_rows(tmp_path / 'run')]
  assert len(losses) == 2 and np.isfinite(losses).all()
  said = capsys.readouterr().out
  assert 'drawn.csv' not in said
  line, _ = [x for x in said.split('\n') if 'in how many of the' in x]
  labelled = json.loads((tmp_path / 'run' / 'split.json').read_text())['ct']
  whole = sum(maps[name] % 2 == 0 for name in labelled['labeled'])
  count = len(labelled['labeled'])
  assert f'of the {count} scans: liver {count}, right kidney {whole}' in line
  assert report.main([str(tmp_path / 'run')]) == 0
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert 'Not shown' not in page and 'ct, best' in page
  # The same label maps, scored by themselves.
  run, found = tmp_path / 'run', tmp_path / 'found'
  wanted = [f'--run={run}', f'--input={place}/ct/images', '--modality=ct']
  assert predict.main([*wanted, f'--output={found}']) == 0
  folders = [f'--prediction={found}', f'--reference={place}/ct/labels']
  described = f'--classes={path}:ct'
  output = tmp_path / 'scores'
  assert evaluate.main([*folders, described, f'--output={output}']) == 0
  scored = json.loads((output / 'evaluation.json').read_text())
  for case in scored['cases']:
    some = {'liver'} if maps[f'ct_{case["case"]}'] % 2 else {*labels}
    assert {*case['scores']} == some and case['ignored_ml'] > 0
