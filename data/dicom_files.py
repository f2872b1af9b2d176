"""Stub."""

import pathlib
from typing import NamedTuple
import warnings

import pydicom

from data.scan_error import ScanError


class Series(NamedTuple):
  uid: str
  files: tuple[pathlib.Path, ...]
  description: str
  number: str
  modality: str


def series_in(folder, files=None):
  out, left = {}, []
  if files is None:
    files = sorted(p for p in pathlib.Path(folder).iterdir() if p.is_file())
  for path in files:
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        d = pydicom.dcmread(path, stop_before_pixels=True)
      if 'Rows' not in d:
        raise ValueError('no pixels')
    except Exception as error:
      left.append(ScanError(path, f'no DICOM image ({error})', 'nothing to do'))
      continue
    key = str(d.get('SeriesInstanceUID', ''))
    out.setdefault(key, (d, []))[1].append(path)
  return [
    Series(
      k,
      tuple(v),
      str(d.get('SeriesDescription', '')),
      str(d.get('SeriesNumber', '')),
      str(d.get('Modality', '')),
    )
    for k, (d, v) in out.items()
  ], left
