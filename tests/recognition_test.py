import json
import shutil

import fake_run
import numpy as np
import pytest

from data import volume_io
from data.volume_io import Volume
from dbdc_jax import deployed
from dbdc_jax.methods import Method
from dbdc_jax.prediction import recognition
from dbdc_jax.segmentation import Segmenter


def _gap_of_the_mean(params, memory, images, modality):
  """Far from a modality whose images are `params` bright on average."""
  del memory, modality
  return abs(images.mean() - params) + 0.01, np.float32(np.nan)


METHOD = fake_run.METHOD._replace(fit=_gap_of_the_mean)


def _run(folder, usual):
  """Modality -> mean brightness of its scans; their gaps are 0.01 to 0.03."""
  run = fake_run.make(modalities=tuple(usual), folder=str(folder))
  for index, (name, brightness) in enumerate(usual.items()):
    run.networks[name] = deployed.Network(METHOD, brightness, None, index)
  known = {
    name: {'gap': [0.01, 0.02, 0.03], 'similarity': [None] * 3}
    for name in usual
  }
  (folder / recognition.FILE).write_text(json.dumps(known))
  return Segmenter([run])


def _volume(brightness):
  """Of scanner values whose window is 0 to 100."""
  return Volume(np.full((20, 20, 6), 100 * brightness), np.diag([1, 1, 3, 1]))


def test_the_modality_with_the_least_usual_gap_is_taken(tmp_path):
  segmenter = _run(tmp_path, {'ct': 0.2, 'mr': 0.7})
  for name, brightness in (('ct', 0.2), ('mr', 0.7), ('ct', 0.215)):
    found = recognition.recognize(segmenter, _volume(brightness))
    assert found.modality == name and 0.5 < found.confidence <= 1
    assert name in str(found)


def test_a_scan_further_off_than_any_known_one_is_declined(tmp_path):
  segmenter = _run(tmp_path, {'ct': 0.2, 'mr': 0.7})
  # 1.25 times the largest gap, 0.03, is still accepted.
  assert recognition.recognize(segmenter, _volume(0.226)).modality == 'ct'
  found = recognition.recognize(segmenter, _volume(0.24))
  assert found.modality is None and found.confidence < 0.5
  assert 'the nearest is ct' in str(found)


def test_an_unlike_scan_is_declined_by_the_prototypes(tmp_path):
  segmenter = _run(tmp_path, {'ct': 0.2})
  network = segmenter.runs[0].networks['ct']
  path = tmp_path / recognition.FILE
  known = {'ct': {'gap': [0.01, 0.02], 'similarity': [0.9, 0.8]}}
  path.write_text(json.dumps(known))
  for similarity, fits in ((0.75, True), (0.65, False)):
    fit = lambda p, m, i, k, s=similarity: (np.float32(0.01), np.float32(s))
    method = Method(**{**network.method._asdict(), 'fit': fit})
    segmenter.runs[0].networks['ct'] = network._replace(method=method)
    found = recognition.recognize(segmenter, _volume(0.2))
    assert (found.modality == 'ct') == fits


def test_windows_are_spread_over_slices_and_places():
  images = np.arange(7 * 24 * 40, dtype=np.float32).reshape(7, 24, 40)
  windows = recognition.sample(images, 16)
  assert windows.shape == (32, 16, 16)
  corners = {divmod(int(w[0, 0]) % (24 * 40), 40) for w in windows}
  slices = {int(w[0, 0]) // (24 * 40) for w in windows}
  assert slices == set(range(7))
  assert corners == {(r, c) for r in (0, 8) for c in (0, 8, 16, 24)}


def test_a_trained_run_keeps_how_its_scans_fit(trained, cache, tmp_path):
  """Every training and validation scan; without it, what to do is said."""
  workdir, *_ = trained
  split = json.loads((workdir / 'split.json').read_text())
  known = json.loads((workdir / recognition.FILE).read_text())
  for name in ('ct', 'mr'):
    parts = ('labeled', 'unlabeled', 'validation')
    count = sum(len(split[name][part]) for part in parts)
    assert len(known[name]['gap']) == len(known[name]['similarity']) == count
    assert all(gap > 0 for gap in known[name]['gap'])
    assert all(-1 <= s <= 1 for s in known[name]['similarity'])
  segmenter = Segmenter([deployed.load(workdir)])
  (root,) = cache.glob('phantom*-heart-tiny-5-0')
  path = next(root.rglob(f'{split["ct"]["test"][0]}_image.nii.gz'))
  found = recognition.recognize(segmenter, volume_io.read_nifti(path))
  assert found.gaps.keys() == {'ct', 'mr'}
  assert 0 <= found.confidence <= 1
  copy = tmp_path / 'copy'
  shutil.copytree(workdir, copy)
  (copy / recognition.FILE).unlink()
  with pytest.raises(ValueError, match='--modality auto needs it'):
    recognition.recognize(
      Segmenter([deployed.load(copy)]), volume_io.read_nifti(path)
    )
