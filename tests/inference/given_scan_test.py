"""What a program may give as a scan, and what it is told of anything else."""

import pathlib
import warnings

from fake_run import blocks, segmenter
from grids import ORIENTATIONS, affine_of
import nibabel as nib
import numpy as np
import pytest

from data.formats.scan_error import ScanError
from dbdc_jax.inference import given_scan

SPACING = (1.0, 1.3, 2.5)
SHAPE = (14, 16, 12)
AFFINE = affine_of('LPS', SPACING, (5, -3, 2))


def _image(voxels=None, affine=AFFINE, kind=nib.Nifti1Image):
  return kind(blocks(SHAPE) if voxels is None else voxels, affine)


def _grid(image, affine=None, spacing=None, axes=None):
  return given_scan.grid(image, affine, spacing, axes)


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_the_ways_to_give_a_scan_find_the_same_on_the_arrays_own_grid(codes):
  """Image, array with affine, array with named axes: one scan, any turn."""
  voxels, affine = blocks(SHAPE), affine_of(codes, SPACING)
  by_header = segmenter().segment(_image(voxels, affine), 'ct')
  assert by_header.labels.shape == SHAPE and by_header.labels.any()
  for given in (
    {'affine': affine},
    {'affine': affine, 'spacing': SPACING, 'axes': codes},
    {'spacing': SPACING, 'axes': codes},
    {'spacing': list(SPACING), 'axes': tuple(codes.lower())},
  ):
    found = segmenter().segment(voxels, 'ct', **given)
    np.testing.assert_array_equal(found.labels, by_header.labels)


@pytest.mark.parametrize('kind', ['uint8', 'int16', '>i2', 'uint16', 'float64'])
def test_the_type_of_the_values_makes_no_difference(kind):
  plain = segmenter().segment(_image(), 'ct').labels
  voxels = blocks(SHAPE).astype(kind)
  found = segmenter().segment(voxels, 'ct', affine=AFFINE)
  np.testing.assert_array_equal(found.labels, plain)


def test_every_kind_of_nibabels_images_is_taken():
  voxels = blocks(SHAPE)
  for kind in (nib.Nifti1Image, nib.Nifti2Image, nib.MGHImage):
    found, affine = _grid(_image(voxels.astype(np.float32), kind=kind))
    np.testing.assert_array_equal(found, voxels)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)


class _SimpleItk:
  def GetDirection(self):  # noqa: N802
    return ()


@pytest.mark.parametrize(
  ('image', 'said'),
  [
    ('scan.nii.gz', r'nibabel.load\(path\)'),
    (pathlib.Path('scan.nii.gz'), 'dbdc_jax.predict'),
    (_SimpleItk(), 'SimpleITK.WriteImage'),
  ],
)
def test_what_is_no_image_is_told_how_to_become_one(image, said):
  with pytest.raises(TypeError, match=said):
    _grid(image)


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ({}, 'does not say its grid: give the image of nibabel.load'),
    # The mistake that cost nine tenths of the overlap without a word.
    ({'spacing': SPACING}, 'where its axes run to.*axes='),
    ({'axes': 'SPL'}, 'its voxel sides'),
    ({'spacing': SPACING, 'axes': 'SPR?'}, 'name where each'),
    ({'spacing': SPACING, 'axes': 'SIL'}, 'name where each'),
    ({'spacing': SPACING, 'axes': 'xyz'}, 'name where each'),
    ({'spacing': SPACING[:2], 'axes': 'SPL'}, 'three positive sides'),
    ({'spacing': (1, 0, 1), 'axes': 'SPL'}, 'three positive sides'),
    ({'spacing': (1, np.nan, 1), 'axes': 'SPL'}, 'three positive sides'),
    ({'affine': AFFINE, 'spacing': SPACING[::-1]}, 'leave spacing= away'),
    ({'affine': AFFINE, 'axes': 'SPL'}, 'whose axes run to LPS'),
    ({'affine': AFFINE[:3]}, r'must be \[4, 4\]'),
    ({'affine': AFFINE.T}, 'last row'),
    ({'affine': 'x'}, r'must be \[4, 4\].*not .x'),
    ({'spacing': '1,1,1', 'axes': 'SPL'}, 'three positive sides'),
    ({'spacing': SPACING, 'axes': 5}, 'name where each'),
    ({'affine': AFFINE, 'axes': 5}, 'whose axes run to LPS'),
  ],
)
def test_a_grid_that_is_not_known_is_never_guessed(given, said):
  with pytest.raises(ValueError, match=said):
    _grid(blocks(SHAPE), **given)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda a: a @ np.diag([0, 1, 1, 1]), 'singular'),
    (lambda a: a @ np.diag([1e4, 1e4, 1e4, 1]), 'voxels of'),
    (lambda a: a + np.diag([np.inf, 0, 0, 0]), 'not finite'),
  ],
)
def test_an_affine_that_no_scan_has_is_refused(change, said):
  with (
    np.errstate(all='ignore'),
    pytest.raises(ScanError, match=said),
  ):
    _grid(blocks(SHAPE), affine=change(AFFINE))


@pytest.mark.parametrize(
  ('voxels', 'said'),
  [
    (np.zeros((4, 5)), r'volume\[None\]'),
    (np.zeros((4, 5, 6, 2)), r'volume\[..., 0\]'),
    (np.zeros((4, 0, 6)), 'three axes'),
    (np.zeros((4, 5, 6), bool), 'voxels of type bool'),
    (np.zeros((4, 5, 6), complex), 'voxels of type complex'),
    (np.full((4, 5, 6), 'x'), 'voxels of type'),
    (np.full((4, 5, 6), np.nan), '120 of 120 voxels are not finite'),
  ],
)
def test_values_that_no_scan_has_are_refused(voxels, said):
  with pytest.raises(ValueError, match=said):
    _grid(voxels, affine=AFFINE)
  if voxels.dtype.kind == 'f' and voxels.ndim == 4:
    with pytest.raises(ValueError, match=said):
      _grid(_image(voxels))


def test_a_header_that_contradicts_itself_is_refused_and_a_bare_one_told():
  image = _image()
  image.set_sform(AFFINE, 1)
  image.set_qform(AFFINE @ np.diag([-1, 1, 1, 1]), 1)
  with pytest.raises(ScanError, match='form'):
    _grid(image)
  bare = _image()
  bare.set_sform(None, 0)
  bare.set_qform(None, 0)
  with pytest.warns(UserWarning, match='left and right are assumed'):
    _grid(bare)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    _grid(_image())


def test_another_affine_than_the_images_own_is_refused():
  _grid(_image(), affine=AFFINE)
  with pytest.raises(ValueError, match='not the affine of the nibabel image'):
    _grid(_image(), affine=np.eye(4))
