"""From a user's folder to a trained run and label maps: partial labels."""

import json

import nibabel as nib
import numpy as np
import tiny

from configs import folder as folder_config
from dbdc_jax import predict
from dbdc_jax.training import train


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
  config = tiny.shrink(folder_config.get_config(f'scans={place}'), cache)
  config.eval_only = True
  again = train.train(config, str(workdir))
  assert again['mean'] == results['mean']
