"""Stub."""

import pathlib

import numpy as np
import SimpleITK as sitk

from data.scan_error import ScanError
from data.volume_io import Volume

ENDINGS = ('.mha', '.mhd', '.nrrd', '.nhdr', '.hdr', '.img')


def read_itk(path, label=False):
  try:
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    im = sitk.ReadImage(str(path))
  except Exception as error:
    raise ScanError(path, 'not readable', 'give another') from error
  a = np.eye(4)
  a[:3, :3] = np.array(im.GetDirection()).reshape(3, 3) * im.GetSpacing()
  a[:3, 3] = im.GetOrigin()
  v = sitk.GetArrayFromImage(im).T
  v = v.astype(np.int32 if label else np.float32)
  return Volume(v, np.diag([-1.0, -1, 1, 1]) @ a)


def read_affine(path):
  return read_itk(path).affine


def companions(path):
  path = pathlib.Path(path)
  low = path.name.lower()
  for a, b in (('.hdr', '.img'),):
    if low.endswith(a):
      return tuple(
        p for p in path.parent.iterdir() if p.name.lower() == low[:-4] + b
      )
  if low.endswith(('.mhd', '.nhdr')):
    for line in path.read_text(errors='replace').splitlines():
      key, _, value = line.replace('=', ':').partition(':')
      if key.strip().lower() in ('elementdatafile', 'data file', 'datafile'):
        if value.strip() != 'LOCAL':
          return (path.parent / value.strip(),)
  return ()
