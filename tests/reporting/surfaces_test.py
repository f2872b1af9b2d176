import itertools

import nibabel as nib
import numpy as np
import pytest

from data.preprocessing import planes, preprocess
from data.task import Intensity, Modality, Scan
from dbdc_jax.reporting import surfaces

COLOURS = ('#ff0000', '#0000ff')
SPACING = (3.0, 1.5, 1.5)


def _ball(shape, centre, radius, spacing=SPACING):
  """Voxels within `radius` mm of `centre` (in voxels)."""
  grid = np.moveaxis(np.indices(shape), 0, -1) - np.array(centre)
  return np.linalg.norm(grid * spacing, axis=-1) <= radius


def _two():
  """A red ball before a smaller blue one, as seen from the front."""
  label = np.zeros((20, 60, 40), np.uint8)
  label[_ball(label.shape, (10, 40, 20), 9)] = 2
  label[_ball(label.shape, (10, 15, 20), 15)] = 1
  return label


def _seen(picture):
  """Which of the two colours each pixel has: 0, 1 or 2."""
  red = picture[..., 0] > picture[..., 2]
  return np.where(picture[..., 3] == 0, 0, np.where(red, 1, 2))


@pytest.mark.parametrize('turn', [0, 30, 90, 200])
def test_a_ball_is_a_disc_from_every_side_whatever_the_voxels(turn):
  ball = _ball((24, 48, 48), (12, 24, 24), 20).astype(np.uint8)
  picture = surfaces.render(ball, SPACING, COLOURS, turn=turn)
  rows, columns = np.nonzero(picture[..., 3])
  height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
  assert abs(height / width - 1) < 0.1
  assert abs(len(rows) / (np.pi / 4 * height * width) - 1) < 0.1


def test_what_is_in_front_hides_what_is_behind():
  front = _seen(surfaces.render(_two(), SPACING, COLOURS))
  assert (front == 1).any() and not (front == 2).any()
  back = _seen(surfaces.render(_two(), SPACING, COLOURS, turn=180))
  assert (back == 1).any() and (back == 2).any()
  # The same outline, mirrored.
  assert np.mean((front > 0) != (back > 0)[:, ::-1]) < 0.01


def test_head_is_up_and_the_patients_right_is_left():
  label = np.zeros((20, 20, 40), np.uint8)
  label[2:6, 8:12, 4:12] = 1  # Towards the feet, on the patient's right.
  label[14:18, 8:12, 28:36] = 2
  seen = _seen(surfaces.render(label, (1.0, 1.0, 1.0), COLOURS))
  right, left = (np.argwhere(seen == c).mean(0) for c in (1, 2))
  assert right[0] > left[0] and right[1] < left[1]


@pytest.mark.parametrize('turn', [0, 130])
def test_the_light_comes_from_above_the_viewers_left(turn):
  ball = _ball((24, 48, 48), (12, 24, 24), 20).astype(np.uint8)
  picture = surfaces.render(ball, SPACING, COLOURS, turn=turn)
  red = picture[..., 0].astype(float)
  rows, columns = np.nonzero(picture[..., 3])
  red = red[rows, columns]
  upper, left = rows < rows.mean(), columns < columns.mean()
  assert red[upper].mean() > red[~upper].mean() + 10
  assert red[left].mean() > red[~left].mean() + 10


def test_nothing_is_an_empty_picture():
  empty = surfaces.render(np.zeros((3, 4, 5), np.uint8), SPACING, COLOURS)
  assert not empty.any()


def _rotation(degrees):
  """Turned a little about each axis."""
  out = np.eye(3)
  for axis in range(3):
    one, other = (k for k in range(3) if k != axis)
    turn = np.eye(3)
    angle = np.radians(degrees)
    turn[one, one] = turn[other, other] = np.cos(angle)
    turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
    out = out @ turn
  return out


@pytest.mark.parametrize('plane', planes.PLANES)
@pytest.mark.parametrize('degrees', [0, 12])
def test_the_body_stands_whatever_the_plane_and_the_order_on_disk(
  plane, degrees
):
  """From slices of any plane come the voxels from feet to head, front to back,
  right to left: the array that the disk's was made from."""
  standing = np.random.default_rng(0).integers(0, 3, (5, 6, 7)).astype(np.uint8)
  sides = (5.0, 1.25, 1.5)
  affine = np.eye(4)
  # Its axes run to the head, the back and the left.
  affine[:3, :3] = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]]) * sides
  modality = Modality('mr', 'MR', '', '', {}, Intensity(), plane=plane)
  for order in itertools.permutations(range(3)):
    for flips in itertools.product((1, -1), repeat=3):
      way = np.stack([order, flips], -1)
      label = nib.orientations.apply_orientation(standing, way)
      own = affine @ nib.orientations.inv_ornt_aff(way, standing.shape)
      own[:3, :3] = _rotation(degrees) @ own[:3, :3]
      ready = preprocess.prepare_scan(
        Scan(label.astype(np.float32), label, own),
        modality,
        roi='none',
        slice_size=16,
      )
      found, spacing = surfaces.upright(ready.native_labels, ready.geometry)
      np.testing.assert_array_equal(found, standing)
      np.testing.assert_allclose(spacing, sides)
