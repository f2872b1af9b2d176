"""A folder of own scans: the phantom's abdomen, CT and T2, other labels."""

import json

import numpy as np

from data.formats import nifti
from data.phantoms import phantom
from data.readers import btcv, chaos
from data.task import ABDOMEN

TASK = {
  'slice_size': 32,
  'modalities': {
    'ct': {
      'labels': {'liver': 6, 'right kidney': 2, 'left kidney': 3, 'spleen': 1},
      'intensity': {'window': [-125, 275]},
    },
    't2': {'labels': {'liver': 1, 'spleen': 4}},
  },
}


def write(folder, cache, subjects=5, unlabeled=1):
  """Writes the folder; the last `unlabeled` T2 scans have no label map.

  Args:
    folder: where to.
    cache: where the phantom is kept.
    subjects: of each modality.
    unlabeled: how many.
  """
  roots = phantom.write(
    'abdomen', str(cache / 'own'), subjects=subjects, seed=0, size='tiny'
  )
  ct, t2 = ABDOMEN.modalities[:2]
  codes = {'ct': {1: 6, 2: 2, 3: 3, 4: 1}, 't2': {1: 1, 2: 0, 3: 0, 4: 4}}
  found = [*btcv.cases(roots['btcv'], [ct]), *chaos.cases(roots['chaos'], [t2])]
  last = [case.name for case in found][-unlabeled:] if unlabeled else []
  for case in found:
    scan = case.read()
    for kind, voxels in (
      ('images', np.round(scan.image).astype(np.int16)),
      ('labels', scan.label),
    ):
      if kind == 'labels' and case.name in last:
        continue
      if kind == 'labels':
        table = np.zeros(5, np.uint8)
        for index, code in codes[case.modality].items():
          table[index] = code
        voxels = table[voxels]
      place = folder / case.modality / kind
      place.mkdir(parents=True, exist_ok=True)
      nifti.write_nifti(place / f'{case.name}.nii.gz', voxels, scan.affine)
  (folder / 'dataset.json').write_text(json.dumps(TASK))
