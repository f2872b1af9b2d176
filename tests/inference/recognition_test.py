import dataclasses
import json
import shutil

import fake_run
import numpy as np
import pytest

from data.formats import nifti
from data.formats.nifti import Volume
from data.phantoms import phantom
from data.preprocessing import signs
from data.task import ABDOMEN, HEART
from dbdc_jax.inference import recognition, trained_run
from dbdc_jax.inference.segmentation import Segmenter
from dbdc_jax.workdir import run_folder

KNOWN, ASKED = range(6), (6, 7)
T1_TAGS = {'Modality': 'MR', 'SeriesDescription': 'T1_DUAL'}
T2_TAGS = {'Modality': 'MR', 'SeriesDescription': 'T2_SPIR'}


def _volume(name, index, **tags):
  settings = {'seed': 0, 'size': 'tiny', 'difficulty': phantom.DIFFICULTY}
  if name == 'ct':
    image, _, affine = phantom.abdomen_ct(index, **settings)
  else:
    (image,), _, affine = phantom.abdomen_mr(index, name, **settings)
  return Volume(image.astype(np.float32), affine, tags=tags)


def _signs(volume, modality):
  return signs.take(volume.voxels, volume.affine, volume.tags, modality)


@pytest.fixture(scope='module')
def kept():
  """What `fit.json` says of six scans each, without tags."""
  return {
    m.name: {
      'scans': [
        {**_signs(_volume(m.name, index), m), 'patient': index}
        for index in KNOWN
      ]
    }
    for m in ABDOMEN.select('ct,t2')
  }


def _segmenter(folder, kept, names='ct,t2'):
  run = dataclasses.replace(
    fake_run.make(folder=str(folder)),
    task=ABDOMEN,
    modalities=ABDOMEN.select(names),
  )
  (folder / run_folder.LOOKS).write_text(json.dumps(kept))
  return Segmenter([run])


def test_unknown_scans_are_told(kept, tmp_path):
  segmenter = _segmenter(tmp_path, kept)
  for name in ('ct', 't2'):
    for index in ASKED:
      found = recognition.recognize(segmenter, _volume(name, index))
      assert found.modality == name not in found.doubts
      assert 0.8 <= found.confidence <= 1
      assert str(found) == f'{name}, confidence {found.confidence:.2f}'


def test_a_run_of_one_modality_declines_the_other(kept, tmp_path):
  for own, other in (('ct', 't2'), ('t2', 'ct')):
    segmenter = _segmenter(tmp_path, kept, own)
    for index in ASKED:
      found = recognition.recognize(segmenter, _volume(other, index))
      assert found.modality is None and found.confidence < 0.5
      assert str(found).startswith('no modality, confidence 0.')
      assert own in str(found)


def test_what_contradicts_a_modality_is_told(kept, tmp_path):
  """By their names alone: no scan of CT or T2 that is known here has tags."""
  segmenter = _segmenter(tmp_path, kept)
  for name, tags, said in (
    ('t2', {'Modality': 'CT'}, 'its DICOM tags say CT'),
    ('t2', T1_TAGS, 'its DICOM tags say t1'),
    ('ct', {'Modality': 'MR'}, 'its DICOM tags say MR'),
  ):
    found = recognition.recognize(segmenter, _volume(name, 6, **tags))
    assert found.modality is None and found.confidence < 0.8
    assert f'it looks like {name}, but {said}' in str(found)


def test_tags_never_make_a_scan_fit(kept, tmp_path):
  """They can only rule out; what they say of another's scan is not believed."""
  segmenter = _segmenter(tmp_path, kept)
  plain = recognition.recognize(segmenter, _volume('t2', 6))
  tagged = recognition.recognize(segmenter, _volume('t2', 6, **T2_TAGS))
  assert tagged.chances == plain.chances and tagged.modality == 't2'
  assert tagged.doubts == {'ct': 'its DICOM tags say MR'}
  lying = recognition.recognize(segmenter, _volume('ct', 6, **T2_TAGS))
  assert lying.modality is None
  alone = _segmenter(tmp_path, kept, 't2')
  lying = recognition.recognize(alone, _volume('ct', 6, **T2_TAGS))
  assert lying.modality is None


def _known(kept, name, **said):
  (modality,) = ABDOMEN.select(name)
  scans = [{**scan, **said} for scan in kept[name]['scans']]
  return recognition.know(modality, scans)


def test_known_tags_say_more_than_names(kept):
  """A modality called T2 whose scans are T1, or come from CT, is so."""
  found = kept['t2']['scans'][0]
  t1 = _known(kept, 't2', scanner='MR', words=['t1'])
  assert t1.doubt(found | {'words': ['t2']}) == 'its DICOM tags say t2'
  assert t1.doubt(found | {'words': ['t1', 'flair'], 'scanner': 'MR'}) == ''
  mixed = _known(kept, 't2', scanner='CT')
  assert mixed.doubt(found | {'scanner': 'MR'}) == 'its DICOM tags say MR'


def test_hounsfield_units_are_no_mr(kept):
  scan = kept['t2']['scans'][0]
  found = scan | {'hounsfield': True}
  assert _known(kept, 't2').doubt(found) == 'its values are Hounsfield units'
  assert _known(kept, 't2', hounsfield=True).doubt(found) == ''
  # A CT may be stored in other units: its look decides.
  assert _known(kept, 'ct').doubt(kept['ct']['scans'][0]) == ''
  other = kept['ct']['scans'][0] | {'hounsfield': False}
  assert _known(kept, 'ct').doubt(other) == ''


def test_a_scan_that_may_be_two_is_declined(kept):
  known = dict.fromkeys(('one', 'other'), _known(kept, 't2'))
  scan = _signs(_volume('t2', 6), ABDOMEN.select('t2')[0])
  found = recognition.decide(known, dict.fromkeys(known, scan))
  assert found.modality is None and 0.2 < found.confidence <= 0.25
  assert 'it may be one or other' in str(found)


def test_hearts_of_the_phantom_are_told_apart_by_cross_validation():
  modalities = HEART.modalities
  settings = {'seed': 1, 'size': 'tiny', 'difficulty': phantom.DIFFICULTY}
  found = {}
  for modality in modalities:
    for index in range(8):
      image, _, affine = phantom.heart_subject(modality.name, index, **settings)
      volume = Volume(image.astype(np.float32), affine)
      found[modality.name, index] = _signs(volume, modality)
  for left_out in range(8):
    known = {
      m.name: recognition.know(
        m,
        [{**found[m.name, i], 'patient': i} for i in range(8) if i != left_out],
      )
      for m in modalities
    }
    for m in modalities:
      scan = found[m.name, left_out]
      fit = recognition.decide(known, dict.fromkeys(known, scan))
      assert fit.modality in (m.name, None)


def test_a_trained_run_keeps_the_signs_of_its_scans(trained, cache, tmp_path):
  """Every training and validation scan; without it, what to do is said."""
  workdir, *_ = trained
  split = json.loads((workdir / 'split.json').read_text())
  kept = json.loads((workdir / run_folder.LOOKS).read_text())
  for name in ('ct', 'mr'):
    parts = ('labeled', 'unlabeled', 'validation')
    count = sum(len(split[name][part]) for part in parts)
    scans = kept[name]['scans']
    assert [scan['patient'] for scan in scans] == list(range(count))
    assert all(scan['hounsfield'] == (name == 'ct') for scan in scans)
  segmenter = Segmenter([trained_run.load(workdir)])
  (root,) = cache.glob('phantom*-heart-tiny-5-0')
  path = next(root.rglob(f'{split["ct"]["test"][0]}_image.nii.gz'))
  volume = nifti.read_nifti(path)
  found = recognition.recognize(segmenter, volume)
  assert found.modality in ('ct', None)
  assert found.chances['ct'] > found.chances['mr']
  copy = tmp_path / 'copy'
  shutil.copytree(workdir, copy)
  for text in (None, '{"ct": {"gap": [0.1], "similarity": [0.9]}}', '{'):
    (copy / run_folder.LOOKS).unlink()
    if text:
      (copy / run_folder.LOOKS).write_text(text)
    with pytest.raises(ValueError, match='eval_only=true, or name the modal'):
      recognition.recognize(Segmenter([trained_run.load(copy)]), volume)
    (copy / run_folder.LOOKS).touch()


def test_patients_are_kept_as_numbers(trained):
  """No name of a scan or person is in the file, which exports carry along."""
  workdir, *_ = trained
  split = json.loads((workdir / 'split.json').read_text())
  text = (workdir / run_folder.LOOKS).read_text()
  for parts in split.values():
    assert not any(name in text for part in parts.values() for name in part)
