"""From prepared scans to both ways of a test, as prediction and scoring do.

No network is trained: `fake_run` says what a value is. Grey scans have an
island that is none, white ones are in two pieces.
"""

import dataclasses
import json

import fake_run
import grids
import numpy as np
import pytest

from configs import folder
from data.formats import nifti
from data.preprocessing import preprocess
import dbdc_jax
from dbdc_jax import methods
from dbdc_jax.evaluation import scoring
from dbdc_jax.inference import prepared_cases, segmentation
from dbdc_jax.training import scans as run_scans

CODES = {'grey': 420, 'white': 7}
AFFINE = grids.affine_of('LPS', (1.0, 1.0, 3.0), (10, 20, 30))
# How many scans choose; the others are the test.
VALIDATION = 2


def _scan(number):
  """Values and label codes, `[X, Y, Z]`."""
  image, label = (np.zeros((32, 32, 8), np.int16) for _ in range(2))
  first = slice(3 + number % 3, 12)
  for low, value, code in ((3, 50, 420), (16, 100, 7)):
    place = first, slice(low, low + 9), slice(1, 6)
    image[place], label[place] = value, code
  # An island; and a second piece, of which the network finds half.
  image[26:31, 26:31, 6:8] = 50
  label[20:26, 16:25, 2:5], image[20:23, 16:25, 2:5] = 7, 100
  return image, label


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder of own scans."""
  place = tmp_path_factory.mktemp('greys')
  said = {'labels': CODES, 'intensity': {'window': [0, 100]}, 'mm_per_pixel': 1}
  task = {'slice_size': 32, 'modalities': {'ct': said}}
  (place / 'dataset.json').write_text(json.dumps(task))
  for kind in ('images', 'labels'):
    (place / 'ct' / kind).mkdir(parents=True)
  for number in range(5):
    for kind, voxels in zip(('images', 'labels'), _scan(number), strict=True):
      file = place / 'ct' / kind / f'case{number}.nii.gz'
      nifti.write_nifti(file, voxels, AFFINE)
  return place


@pytest.fixture
def make(place, cache):
  """A way's scans, run, choice and test: results and label maps."""

  def make(way):
    config = folder.get_config(f'scans={place},preset=paper')
    config.augment.patch_size = fake_run.PATCH
    config.data.cache, config.evaluation.components = str(cache), way
    problem = methods.resolve(config)
    prepared = run_scans.load(problem)
    scans = prepared_cases.Scans(
      problem, fake_run.METHOD, None, None, prepared, [[]]
    )
    cases = list(prepared.cases)
    chosen = prepared_cases.choose_components(scans, [cases[:VALIDATION]])
    maps = {}
    keep = lambda case, found, label: maps.update({case.name: found})
    tested = prepared_cases.test_cases(
      scans, [cases[VALIDATION:]], chosen, keep
    )
    run = dataclasses.replace(
      fake_run.make(),
      config=config,
      task=problem.task,
      modalities=problem.modalities,
      mm_per_pixel={'ct': 1.0},
      components=chosen,
    )
    return run, tested, maps

  return make


def test_validation_scans_choose_the_class_that_has_islands(make):
  run, tested, _ = make('none')
  chosen = run.components['ct']
  assert [chosen[name]['keep_largest'] for name in CODES] == [True, False]
  assert chosen['grey']['dice_of_largest'] == 100 > chosen['grey']['dice']
  assert all(chosen[name]['scans'] == VALIDATION for name in CODES)
  assert len(tested) == 5 - VALIDATION
  for case in tested:
    for grid in ('native', 'prepared'):
      assert (
        case['beside'][grid]['grey']['dice'] == 100 > case[grid]['grey']['dice']
      )
      assert case['beside'][grid]['white'] == case[grid]['white']


def test_both_ways_are_the_same_whichever_the_results_are(make):
  without, with_it = make('none')[1], make('validation')[1]
  for a, b in zip(without, with_it, strict=True):
    assert a['beside'] == {grid: b[grid] for grid in a['beside']}
    assert b['beside'] == {grid: a[grid] for grid in b['beside']}


@pytest.mark.parametrize('way', ['none', 'validation'])
def test_prediction_does_as_the_test_did(way, make, place):
  run, _, maps = make(way)
  assert len(maps) == 5 - VALIDATION
  for name, wanted in maps.items():
    (file,) = place.glob(f'ct/images/{name.removeprefix("ct_")}.nii.gz')
    image = nifti.read_nifti(file)
    found = segmentation.Segmenter([run]).segment(
      image.voxels, 'ct', affine=image.affine
    )
    assert wanted.any()
    np.testing.assert_array_equal(
      preprocess.reorient(found.classes, image.affine, 'axial'), wanted
    )


def test_both_scores_are_those_of_both_label_maps(make, place, tmp_path):
  run, tested, _ = make('none')
  for way in ('none', 'validation'):
    (tmp_path / way).mkdir()
    segmenter = segmentation.Segmenter([run], components=way)
    for case in tested:
      file = f'{case["case"].removeprefix("ct_")}.nii.gz'
      image = nifti.read_nifti(place / 'ct' / 'images' / file)
      found = segmenter.segment(image.voxels, 'ct', affine=image.affine)
      nifti.write_nifti(tmp_path / way / file, found.labels, image.affine)
    classes = ','.join(f'{code}={name}' for name, code in CODES.items())
    scored = dbdc_jax.score(
      tmp_path / way, place / 'ct' / 'labels', classes=classes, quiet=True
    )
    by_case = {case['case']: case['scores'] for case in scored.results['cases']}
    for case in tested:
      of_way = case if way == 'none' else case['beside']
      other = by_case[case['case'].removeprefix('ct_')]
      for name in CODES:
        for metric in scoring.NATIVE:
          assert of_way['native'][name][metric] == pytest.approx(
            other[name][metric]
          )


def test_results_hold_both_means(make):
  run, tested, _ = make('validation')
  facts = {'components': run.components}
  info = {'components': 'validation', 'networks': {'ct': facts}}
  classes = run.task.classes
  results = scoring.summarize(tested, classes, ['ct'], info)
  ways = scoring.by_components(results)
  hd95 = {way: of['mean']['native_grid']['hd95'] for way, of in ways.items()}
  assert results['mean']['native_grid']['hd95'] == hd95['validation']
  assert hd95['none'] > hd95['validation']
  text = scoring.table(results)
  assert 'chosen by the validation scans: ct grey' in text
  last = text.splitlines()[-2:]
  for line, way in zip(last, ('none', 'validation'), strict=True):
    assert f'{hd95[way]:.2f} mm' in line
  assert last[1].endswith('the scores above')
