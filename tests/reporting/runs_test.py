"""Folders that are no finished run, and what is said of them."""

import re
import shutil

import pytest

from configs import common
from dbdc_jax.reporting import runs
from dbdc_jax.workdir import run_record


@pytest.fixture
def folder(tmp_path):
  """As much of a finished run as is read of it."""
  place = tmp_path / 'run'
  place.mkdir()
  keys = ('run', 'classes', 'modalities', 'mean', 'cases')
  results = {key: {} for key in keys}
  record = {'commit': '', 'data': {}, 'skipped_scans': []}
  run_record.write_json(place / 'results.json', results)
  run_record.write_json(place / 'run.json', record)
  run_record.write_json(place / 'config.json', common.base().to_dict())
  assert runs.read(str(place)).results == results
  return place


def _without(name):
  return lambda folder: (folder / name).unlink()


def _cut_short(folder):
  data = (folder / 'results.json').read_bytes()
  (folder / 'results.json').write_bytes(data[: len(data) // 2])


def _another_file(folder):
  (folder / 'results.json').write_text('[1, 2]')


def _export(folder):
  (folder / 'results.json').unlink()
  (folder / 'model.json').touch()


def _scans(folder):
  shutil.rmtree(folder)
  folder.mkdir()
  (folder / 'a.nii.gz').touch()


def _file(folder):
  shutil.rmtree(folder)
  folder.touch()


@pytest.mark.parametrize(
  ('harm', 'said'),
  [
    (_without('results.json'), 'run: the run has no results yet: the command'),
    (_without('run.json'), 'run.json: missing, so .*run is no finished run'),
    (_without('config.json'), 'config.json: not a readable config'),
    (_cut_short, 'results.json: not readable .*: bring the file back, or test'),
    (_another_file, 'results.json: not what a run writes: bring the file back'),
    (_export, 'run: an export: a report needs the run'),
    (_scans, 'results.json: missing, so .*run is no finished run: give'),
    (_file, 'run: a file: give the workdir'),
    (shutil.rmtree, 'run: no such folder: give the workdir'),
  ],
)
def test_what_keeps_a_folder_from_having_a_report_is_said(folder, harm, said):
  harm(folder)
  with pytest.raises(ValueError) as caught:
    runs.read(str(folder))
  assert re.search(said, str(caught.value))
