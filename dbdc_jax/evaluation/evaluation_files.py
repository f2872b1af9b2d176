"""evaluation.json and evaluation.csv: where they may be written, and writing.

A file of such a name that an evaluation did not write is somebody's, and stays.
"""

import pathlib
import tempfile
from typing import Any

from data.files import destination
from dbdc_jax.evaluation import case_scores, metrics, scoring

_JSON, _CSV = 'evaluation.json', 'evaluation.csv'
# Whatever version wrote it, an evaluation has these.
_KEYS = {'cases_scored', 'cases_found', 'definitions', 'summary', 'cases'}


def _header() -> list[str]:
  units = [f'{m}_{metrics.DEFINITIONS[m]["unit"]}' for m in case_scores.METRICS]
  return ['case', 'class', *units, 'tolerance_mm', 'empty']


def check(folder: pathlib.Path) -> None:
  """Makes a folder for results, and checks that they may be written there.

  Raises:
    ValueError: it is a file, cannot be written into, or holds a file that a
      result would replace and that no evaluation wrote.
  """
  try:
    if folder.exists() and not folder.is_dir():
      raise ValueError(f'{folder}: is a file; give a folder: --output')
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise ValueError(
      f'{folder}: cannot be written into ({error.strerror}); choose another'
      ' --output'
    ) from error
  known = {
    _JSON: lambda text: destination.has_keys(text, _KEYS),
    _CSV: lambda text: text.split('\n')[0].strip() == ','.join(_header()),
  }
  destination.check_ours(
    folder,
    known,
    ': is there, and no evaluation wrote it; move it away, or choose another'
    ' --output',
  )


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
  """Writes evaluation.json and .csv; see `scoring.write`."""
  rows = [
    [
      *(case['case'], name, *(row[m] for m in case_scores.METRICS)),
      *(case['tolerance_mm'], row['empty']),
    ]
    for case in results['cases']
    for name, row in case['scores'].items()
  ]
  scoring.write(results, folder / 'evaluation', _header(), rows)
