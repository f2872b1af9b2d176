import functools
import itertools

from fake_run import make, segmenter
from grids import ORIENTATIONS, affine_of
import numpy as np
import pytest
import scipy.spatial

from data.phantoms import anatomy, scanner, shapes
from data.preprocessing import planes, preprocess
from data.task import Intensity, Modality, Scan

SIDE, COUNT, PIXEL, GAP = 32, 12, 5.0, 25.0
# How the acquired slices lie: their normal's axis, and a turn of it all.
TURNS = {
  'axial': ('LPS', (0, 0, 0)),
  'coronal': ('LIP', (0, 0, 0)),
  'sagittal': ('PIL', (0, 0, 0)),
  'double oblique': ('LIP', (35, 0, 30)),
  'short axis': ('LPS', (40, -35, 20)),
}


def _turn(degrees):
  return scipy.spatial.transform.Rotation.from_euler(
    'xyz', degrees, degrees=True
  ).as_matrix()


def _stored(affine, arrays, storage):
  """The same scan with its array axes in another order and direction."""
  order, flips = storage
  shape = arrays[0].shape
  change = np.zeros((4, 4))
  change[3, 3] = 1
  for new, old in enumerate(order):
    change[old, new] = -1 if flips[old] else 1
    change[old, 3] = shape[old] - 1 if flips[old] else 0
  flipped = [axis for axis in range(3) if flips[axis]]
  out = [np.transpose(np.flip(a, flipped), order) for a in arrays]
  return affine @ change, out


STORAGES = list(
  itertools.product(
    itertools.permutations(range(3)), itertools.product((0, 1), repeat=3)
  )
)[::7]


def _grid(name):
  """A stack whose last axis are the slices."""
  codes, degrees = TURNS[name]
  affine = affine_of(codes, (PIXEL, PIXEL, GAP), rotation=_turn(degrees))
  shape = (SIDE, SIDE, COUNT)
  affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
  return affine, shape


@functools.cache
def _scanned(name):
  """The phantom's abdomen as that scanner would have acquired it."""
  affine, shape = _grid(name)
  rng = np.random.default_rng(3)
  points = shapes.grid(affine, shape)
  parts = anatomy.abdomen(points, rng, anatomy.DIFFICULTY)
  label = scanner.paint_label(parts)
  classes = np.where(label == 6, 1, np.where(label > 0, 2, 0)).astype(np.uint8)
  image = np.random.default_rng(0).uniform(0, 100, shape).astype(np.float32)
  return affine, [image, classes]


def _scan(name, storage):
  affine, (image, label) = _stored(*_scanned(name), storage)
  return Scan(image, label, affine)


def _modality(plane):
  codes = {0: 0, 1: 1, 2: 2}
  window = Intensity((0.0, 100.0))
  return Modality('mr', 'MR', 'folder', 'mr', codes, window, PIXEL, plane)


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('name', TURNS)
def test_prepared_slices_are_the_acquired_pixels(name, storage):
  """Turned and flipped, but nowhere mixed: not across slices, nor in them."""
  scan = _scan(name, storage)
  plane = planes.decide(planes.ACQUIRED, [scan.affine])
  ready = preprocess.prepare_scan(
    scan, _modality(plane), roi='none', slice_size=SIDE
  )
  assert ready.images.shape == (COUNT, SIDE, SIDE)
  assert ready.spacing == pytest.approx((GAP, PIXEL, PIXEL))
  axis = int(np.argmax(np.linalg.norm(scan.affine[:3, :3], axis=0)))
  acquired = np.round(np.moveaxis(scan.image, axis, 0) / 100 * 65535)
  known = {np.sort(a.ravel()).tobytes(): a for a in acquired.astype(np.uint16)}
  for image in ready.images:
    given = known.pop(np.sort(image.ravel()).tobytes())
    turned = [np.rot90(g, k) for g in (given, given.T) for k in range(4)]
    assert any(np.array_equal(image, t) for t in turned)
  assert not known


@pytest.mark.parametrize('name', TURNS)
def test_every_way_of_storing_a_scan_gives_the_same_slices(name):
  found = []
  for storage in STORAGES:
    scan = _scan(name, storage)
    ready = preprocess.prepare_scan(
      scan._replace(image=scan.label.astype(np.float32) * 50),
      _modality('acquired'),
      roi='none',
      slice_size=SIDE,
    )
    found.append((ready.images, ready.labels))
  for images, labels in found[1:]:
    np.testing.assert_array_equal(images, found[0][0])
    np.testing.assert_array_equal(labels, found[0][1])


@pytest.mark.parametrize(
  ('name', 'axes'),
  [('axial', 'SPL'), ('coronal', 'PIL'), ('sagittal', 'LIP')],
)
def test_each_view_has_one_orientation(name, axes):
  for storage in STORAGES:
    affine, _ = _stored(*_scanned(name), storage)
    wanted = planes.orientation(affine, 'acquired')
    turned = affine[:3, :3] @ _permutation(wanted)
    assert ''.join(_letters(turned)) == axes == ''.join(planes.axes(name))


def _permutation(orientation):
  out = np.zeros((3, 3))
  for axis, (place, flip) in enumerate(orientation):
    out[axis, int(place)] = flip
  return out


def _letters(directions):
  for column in directions.T:
    world = int(np.argmax(np.abs(column)))
    yield ('LR', 'PA', 'IS')[world][int(column[world] > 0)]


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_axial_is_what_it_always_was(codes):
  """Archives are cut along head-feet, whatever their voxels."""
  affine = affine_of(codes, (1.0, 2.0, 9.0), rotation=_turn((10, 5, -8)))
  turned = affine[:3, :3] @ _permutation(planes.orientation(affine, 'axial'))
  assert ''.join(_letters(turned)) == 'SPL'


def test_a_short_axis_stack_is_cut_into_its_own_slices():
  affine = affine_of('LPS', (1.25, 1.25, 8), rotation=_turn((55, 10, 45)))
  shape = (192, 192, 13)
  slices = preprocess.reorient(np.zeros(shape), affine, 'acquired')
  assert slices.shape == (13, 192, 192)
  assert preprocess.reoriented_spacing(affine, 'acquired') == pytest.approx(
    [8, 1.25, 1.25]
  )


@pytest.mark.parametrize('ratio', [1.0, 1.4, 1.6, 5.0])
def test_voxels_without_a_coarse_axis_are_cut_along_head_feet(ratio):
  affine = affine_of('LIP', (1.0, 1.0, ratio))
  coarse = ratio >= planes.ANISOTROPIC
  view = planes.cut(affine, 'acquired')
  assert view == ('coronal' if coarse else 'axial')
  # But as most of its modality, where that has a view.
  assert planes.cut(affine, 'acquired-coronal') == 'coronal'
  assert planes.cut(affine, 'sagittal') == 'sagittal'
  turned = planes.orientation(affine, 'acquired-coronal')
  np.testing.assert_array_equal(turned, planes.orientation(affine, 'coronal'))


def test_one_plane_is_decided_for_all_scans_of_a_modality():
  coronal = affine_of('LIP', (1, 1, 5))
  axial, cube = affine_of('LPS', (1, 1, 5)), affine_of('LPS', (1, 1, 1))
  decided = planes.decide('acquired', [coronal, axial, coronal, cube])
  assert decided == 'acquired-coronal'
  assert planes.decide('acquired', [cube, cube]) == 'acquired-axial'
  assert planes.decide('sagittal', [axial]) == 'sagittal'
  assert planes.decide('acquired', []) == 'acquired'
  # One that was acquired otherwise keeps its slices, and its own orientation.
  assert planes.cut(axial, decided) == 'axial'
  np.testing.assert_array_equal(
    planes.orientation(axial, decided), planes.orientation(axial, 'axial')
  )
  # Deciding twice changes nothing.
  assert planes.decide(decided, [axial]) == decided


def test_oblique_stacks_between_two_views_are_all_turned_alike():
  """Short axes lie near no view: rows and columns still follow each other."""
  rng = np.random.default_rng(0)
  normal_to = _turn((50, -35, 5)) @ _turn((0, 0, 45))
  affines = []
  for _ in range(40):
    wobble = scipy.spatial.transform.Rotation.from_rotvec(
      rng.normal(size=3) * 0.12
    ).as_matrix()
    affines.append(affine_of('LPS', (1.3, 1.3, 8), rotation=wobble @ normal_to))
  views = {planes.view_of(a) for a in affines}
  assert len(views) > 1  # What a decision scan by scan would give.
  plane = planes.decide('acquired', affines)
  directions = [
    a[:3, :3] @ _permutation(planes.orientation(a, plane)) for a in affines
  ]
  first = directions[0] / np.linalg.norm(directions[0], axis=0)
  for other in directions[1:]:
    other = other / np.linalg.norm(other, axis=0)
    assert (first * other).sum(0).min() > 0.7
  assert {planes.cut(a, plane) for a in affines} == {plane.split('-')[1]}


@pytest.mark.parametrize('storage', STORAGES[::2])
@pytest.mark.parametrize('name', TURNS)
def test_segmented_back_onto_the_scans_grid(name, storage):
  """Every class lies where it was drawn, to within half a voxel."""
  scan = _scan(name, storage)
  run = make(mm=PIXEL, codes={0: 0, 1: 1, 2: 2}, plane='acquired')
  found = segmenter(run).segment(scan.label * 50.0, 'ct', affine=scan.affine)
  assert found.labels.shape == scan.label.shape
  np.testing.assert_array_equal(found.labels, scan.label)


@pytest.mark.parametrize('plane', planes.PLANES)
def test_slices_of_a_planes_own_axes_are_taken_as_they_are(plane):
  """[slices, rows, columns] of the plane, whatever their spacing."""
  voxels = np.random.default_rng(0).choice([0, 50, 100], (9, 20, 22))
  run = make(plane=plane)
  found = segmenter(run).segment(
    voxels, 'ct', spacing=(0.5, 1, 1), axes=planes.axes(plane)
  )
  np.testing.assert_array_equal(found.classes, voxels // 50)


def test_runs_that_cut_a_modality_differently_are_not_averaged():
  runs = make(plane='acquired-coronal'), make(plane='axial')
  with pytest.raises(ValueError, match='cannot be averaged'):
    segmenter(*runs).segment(np.zeros((16, 16, 16)), 'ct', affine=np.eye(4))
