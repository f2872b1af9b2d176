import json
import os

import pytest

from dbdc_jax.inference import provenance
from dbdc_jax.inference.provenance import Result

MADE = {'runs': ['abc'], 'modality': 'ct', 'mirror': False}


def _made(folder, name='a', scan='s', made=MADE, content=b'labels'):
  """A result as the command writes it."""
  file = f'{name}.nii.gz'
  (folder / file).write_bytes(content)
  sha = provenance.digest([folder / file])
  provenance.add(folder, name, Result(scan, made, {file: sha}, {}))
  return file


def _state(folder, scan='s', made=MADE, wanted=('a.nii.gz',)):
  before = provenance.read(folder).get('a')
  return provenance.state(folder, before, scan, made, wanted)


def test_done_is_what_was_made_from_the_same_scan_in_the_same_way(tmp_path):
  assert _state(tmp_path) == 'missing'
  _made(tmp_path)
  assert _state(tmp_path) == 'done'
  assert _state(tmp_path, scan='another') == 'stale'
  assert _state(tmp_path, made=MADE | {'modality': 'mr'}) == 'stale'
  assert _state(tmp_path, made=MADE | {'mirror': True}) == 'stale'
  assert _state(tmp_path, made=MADE | {'runs': ['abd']}) == 'stale'
  # A picture that was not asked for then is asked for now.
  more = ('a.png', 'a.nii.gz')
  assert _state(tmp_path, wanted=more) == 'stale'


def test_what_somebody_else_put_there_is_foreign(tmp_path):
  (tmp_path / 'a.nii.gz').write_bytes(b'mine')
  assert _state(tmp_path) == 'foreign'
  _made(tmp_path)
  (tmp_path / 'a.nii.gz').write_bytes(b'corrected by hand')
  assert _state(tmp_path) == 'edited'
  # Made otherwise it would have to be replaced: not what was corrected.
  assert _state(tmp_path, scan='another') == 'foreign'


def test_a_removed_result_is_made_again(tmp_path):
  (tmp_path / _made(tmp_path)).unlink()
  assert _state(tmp_path) == 'missing'


def test_a_dangling_link_is_in_the_way_too(tmp_path):
  (tmp_path / 'a.nii.gz').symlink_to(tmp_path / 'nowhere')
  assert _state(tmp_path) == 'foreign'


def test_entries_are_added_and_hold_no_folder(tmp_path):
  _made(tmp_path, 'a')
  _made(tmp_path, 'b')
  _made(tmp_path, 'a', scan='t')
  found = provenance.read(tmp_path)
  assert {n: r.scan for n, r in found.items()} == {'a': 't', 'b': 's'}
  text = (tmp_path / provenance.FILE).read_text()
  assert str(tmp_path) not in text and os.sep not in text


@pytest.mark.parametrize('content', ['', '[]', '{}', '{"format": 1}', 'null'])
def test_a_damaged_record_is_named_with_the_remedy(tmp_path, content):
  (tmp_path / provenance.FILE).write_text(content)
  with pytest.raises(ValueError, match=r'predictions\.json.*move it away'):
    provenance.read(tmp_path)


def test_a_newer_record_is_refused(tmp_path):
  _made(tmp_path)
  path = tmp_path / provenance.FILE
  path.write_text(json.dumps(json.loads(path.read_text()) | {'version': 99}))
  with pytest.raises(ValueError, match='version 99'):
    provenance.read(tmp_path)


def test_results_never_lie_among_the_scans(tmp_path):
  """Whatever way the folder is written; one inside of it is welcome."""
  place = tmp_path / 'in'
  (place / 'deep').mkdir(parents=True)
  scan = place / 'a.nii.gz'
  scan.write_bytes(b'scan')
  inner = place / 'deep' / 'b.nii.gz'
  inner.write_bytes(b'scan')
  (tmp_path / 'link').symlink_to(place)
  same = (place, place / 'deep' / '..', tmp_path / 'link', place / 'deep')
  for output in same:
    with pytest.raises(ValueError, match='over the scan itself'):
      provenance.check_output(output, place, [scan, inner])
    with pytest.raises(ValueError, match='over the scan itself'):
      provenance.check_output(output, tmp_path / 'link', [scan, inner])
  for output in same[:3]:
    with pytest.raises(ValueError, match='over the scan itself'):
      provenance.check_output(output, scan, [scan])
  for output in (place / 'out', tmp_path / 'out', tmp_path):
    provenance.check_output(output, place, [scan, inner])
  with pytest.raises(ValueError, match='is a file'):
    provenance.check_output(scan, place, [scan])


@pytest.mark.parametrize('link', [os.link, os.symlink])
def test_a_result_that_is_a_scan_by_a_link_is_refused(tmp_path, link):
  scan = tmp_path / 'a.nii.gz'
  scan.write_bytes(b'scan')
  output = tmp_path / 'out'
  output.mkdir()
  provenance.check_targets(output, ['a.nii.gz'], [scan])
  link(scan, output / 'a.nii.gz')
  with pytest.raises(ValueError, match='itself, by a link'):
    provenance.check_targets(output, ['b.nii.gz', 'a.nii.gz'], [scan])
