"""Double Bank Dual Consistency: training, prediction, evaluation.

  import dbdc_jax, nibabel
  from configs import heart

  dbdc_jax.train(heart.get_config(), 'runs/heart')
  segmenter = dbdc_jax.load('runs/heart')
  found = segmenter.segment(nibabel.load('scan.nii.gz'), 'ct')
  dbdc_jax.score('segmented', 'references').results['summary']

Importing this loads nothing: each function is fetched when it is first asked
for, jax with those that need it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from data.preparation import prepare
  from dbdc_jax.evaluation.folders import score
  from dbdc_jax.inference.segmentation import load
  from dbdc_jax.training.train import train

__version__ = '0.1.0'
__all__ = ['__version__', 'load', 'prepare', 'score', 'train']

_HOMES = {
  'load': 'dbdc_jax.inference.segmentation',
  'prepare': 'data.preparation',
  'score': 'dbdc_jax.evaluation.folders',
  'train': 'dbdc_jax.training.train',
}


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
