import csv
import gzip
import json
import os
import pathlib
import struct

import fake_run
from grids import ORIENTATIONS, affine_of
import nibabel as nib
import numpy as np
import pydicom
import pytest
import scipy.spatial

from data.formats import itk, nifti, scan_files
from data.phantoms import archive
import dbdc_jax
from dbdc_jax import predict
from dbdc_jax.inference import folder_of_scans, provenance, results, trained_run

SPACING = (1.1, 1.4, 2.6)
TURN = scipy.spatial.transform.Rotation.from_rotvec([0.2, -0.1, 0.15])
CODE_OF = np.array([0, 420, 7])


def _corners(affine, shape):
  ends = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
  return ends @ affine[:3, :3].T + affine[:3, 3]


def _segment(path, output, **options):
  job = results.Job(fake_run.segmenter(), output, modality='ct', **options)
  scans = scan_files.find(path, without=(output,)).scans
  outcome = folder_of_scans.run(job, scans, quiet=True)
  assert not outcome.errors
  return outcome


def _nifti(path, voxels, affine, forms=(2, 1)):
  image = nib.Nifti1Image(voxels, affine)
  image.set_sform(affine, forms[0])
  image.set_qform(affine, forms[1])
  image.header.set_xyzt_units('mm', 'sec')
  nib.save(image, path)


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_nifti_comes_back_with_the_inputs_header(codes, tmp_path):
  """Shape, affine, codes of both forms, voxel sides; the structure's place."""
  voxels = fake_run.blocks((16, 14, 12))
  straight = affine_of(codes, SPACING, (5, -3, 2))
  oblique = affine_of(codes, SPACING, (-80, 60, 5), TURN.as_matrix())
  _nifti(tmp_path / 'a.nii', voxels, straight)
  _nifti(tmp_path / 'b.nii.gz', voxels, oblique)
  # Either form alone counts.
  _nifti(tmp_path / 'c.nii.gz', voxels, oblique, forms=(0, 1))
  _nifti(tmp_path / 'd.nii', voxels, oblique, forms=(3, 0))
  output = tmp_path / 'out'
  output.mkdir()
  _segment(tmp_path, output)
  for name in ('a.nii', 'b.nii.gz', 'c.nii.gz', 'd.nii'):
    given = nib.load(tmp_path / name)
    found = nib.load(output / f'{name.split(".")[0]}.nii.gz')
    assert found.shape == given.shape
    np.testing.assert_array_equal(found.affine, given.affine)
    for field in ('qform_code', 'sform_code', 'pixdim', 'xyzt_units'):
      np.testing.assert_array_equal(found.header[field], given.header[field])
    labels = np.asanyarray(found.dataobj)
    assert labels.dtype == np.uint16
    assert set(np.unique(labels)) == {0, 7, 420}
    gap = np.argwhere(labels).mean(0) - np.argwhere(voxels).mean(0)
    assert np.abs(gap).max() < 0.5


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_a_dicom_series_comes_back_in_its_own_place(codes, tmp_path):
  """LPS to RAS, right to 1e-4 mm at all eight corners."""
  voxels = fake_run.blocks((16, 14, 12))
  affine = affine_of(codes, SPACING, (-80, 60, 5), TURN.as_matrix())
  folder = tmp_path / 'series'
  archive.write_dicom(
    folder,
    voxels.astype(np.uint16),
    affine,
    list(range(1, 13)),
    patient=1,
    series=1,
    protocol='T2',
  )
  output = tmp_path / 'out'
  output.mkdir()
  _segment(folder, output)
  found = nib.load(output / 'series.nii.gz')
  labels = np.asanyarray(found.dataobj)
  # Slices follow the normal of rows and columns, whichever way that is.
  flipped = np.linalg.det(affine) < 0
  theirs = voxels[:, :, ::-1] if flipped else voxels
  here = _corners(found.affine, labels.shape)
  there = _corners(affine, voxels.shape)
  if flipped:
    there = there.reshape(2, 2, 2, 3)[:, :, ::-1].reshape(-1, 3)
  np.testing.assert_allclose(here, there, atol=1e-4)
  assert found.header['qform_code'] == found.header['sform_code'] == 1
  gap = np.argwhere(labels).mean(0) - np.argwhere(theirs).mean(0)
  assert np.abs(gap).max() < 0.5


def test_nifti2_and_a_trailing_axis_of_one_keep_their_form(tmp_path):
  voxels = fake_run.blocks((16, 14, 12))
  affine = affine_of('LPS', SPACING)
  nib.save(nib.Nifti2Image(voxels, affine), tmp_path / 'two.nii.gz')
  nib.save(nib.Nifti1Image(voxels[..., None], affine), tmp_path / 'four.nii.gz')
  output = tmp_path / 'out'
  output.mkdir()
  _segment(tmp_path, output)
  two = nib.load(output / 'two.nii.gz')
  assert isinstance(two, nib.Nifti2Image)
  four = nib.load(output / 'four.nii.gz')
  assert four.shape == (16, 14, 12, 1)
  np.testing.assert_array_equal(
    two.dataobj, np.asanyarray(four.dataobj)[..., 0]
  )


def test_the_scans_scaling_is_not_the_labels(tmp_path):
  voxels = fake_run.blocks((16, 14, 12))
  image = nib.Nifti1Image(voxels - 40, affine_of('LPS', SPACING))
  image.header['cal_max'] = 99
  data = bytearray(image.to_bytes())
  data[112:120] = struct.pack('<ff', 1.0, 40.0)  # scl_slope, scl_inter
  (tmp_path / 'scaled.nii.gz').write_bytes(gzip.compress(data))
  output = tmp_path / 'out'
  output.mkdir()
  read = nifti.read_nifti(tmp_path / 'scaled.nii.gz')
  np.testing.assert_array_equal(read.voxels, voxels)
  _segment(tmp_path, output)
  found = nib.load(output / 'scaled.nii.gz')
  assert set(np.unique(np.asanyarray(found.dataobj))) == {0, 7, 420}
  assert found.header['cal_max'] == 0


@pytest.fixture
def folder(tmp_path):
  """Two sound scans, a truncated one and a constant one."""
  place = tmp_path / 'in'
  place.mkdir()
  affine = affine_of('RAS', SPACING)
  for name in ('a', 'd'):
    _nifti(place / f'{name}.nii.gz', fake_run.blocks((16, 14, 12)), affine)
  whole = (place / 'a.nii.gz').read_bytes()
  (place / 'b.nii.gz').write_bytes(whole[: len(whole) // 2])
  _nifti(place / 'c.nii', np.zeros((4, 4, 4), np.int16), affine)
  return place


@pytest.fixture
def command(monkeypatch, tmp_path):
  """The command, with a run whose network says what a value is."""
  run = fake_run.make(modalities=('ct', 'mr'), folder=str(tmp_path / 'run'))
  monkeypatch.setattr(trained_run, 'load', lambda folder: run)
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'xla'))

  def call(place, *flags):
    arguments = ['--run', 'run', '--input', str(place)]
    arguments += ['--output', str(tmp_path / 'out'), *flags]
    return predict.main(arguments), tmp_path / 'out'

  return call


def test_bad_scans_are_reported_and_the_rest_is_done(folder, command, capsys):
  code, output = command(
    folder, '--modality', 'ct', '--overlay', '--uncertainty'
  )
  said = capsys.readouterr()
  assert code == 1
  assert '2 scans segmented' in said.out
  assert '2 could not be segmented' in said.err
  assert 'truncated' in said.err and 'constant' in said.err
  written = sorted(
    str(p.relative_to(output)) for p in output.rglob('*') if p.is_file()
  )
  kinds = ('{}.nii.gz', '{}_entropy.nii.gz', 'overlays/{}.png')
  wanted = [kind.format(name) for name in ('a', 'd') for kind in kinds]
  assert written == sorted([*wanted, 'predictions.json'])
  entropy = nib.load(output / 'a_entropy.nii.gz')
  values = np.asanyarray(entropy.dataobj)
  assert values.dtype == np.float32 and 0 <= values.min() < values.max() <= 1


def test_what_is_done_is_skipped_unless_it_shall_be_overwritten(
  folder, command, capsys
):
  for name in ('b.nii.gz', 'c.nii'):
    (folder / name).unlink()
  assert command(folder, '--modality', 'ct')[0] == 0
  _, output = command(folder, '--modality', 'ct')
  assert '0 scans segmented' in capsys.readouterr().out.splitlines()[-1]
  marked = output / 'a.nii.gz'
  marked.write_bytes(b'mine')
  assert command(folder, '--modality', 'ct')[0] == 0
  assert 'a: its result was changed' in capsys.readouterr().out
  assert marked.read_bytes() == b'mine'
  # Other options would have to replace what was corrected by hand.
  assert command(folder, '--modality', 'ct', '--components', 'largest')[0] == 1
  assert 'was not made by this command' in capsys.readouterr().err
  assert marked.read_bytes() == b'mine'
  assert command(folder, '--modality', 'ct', '--overwrite')[0] == 0
  assert marked.read_bytes() != b'mine'


def test_the_runs_choice_is_made_again_where_it_differs(
  folder, tmp_path, monkeypatch, capsys
):
  """What was chosen counts, and not by which option."""
  for name in ('b.nii.gz', 'c.nii'):
    (folder / name).unlink()
  run = fake_run.make(modalities=('ct', 'mr'))
  monkeypatch.setattr(trained_run, 'load', lambda folder: run)
  output = tmp_path / 'out'

  def done(*flags):
    arguments = ['--run', 'run', '--input', str(folder), '--modality', 'ct']
    assert predict.main([*arguments, '--output', str(output), *flags]) == 0
    said = capsys.readouterr()
    return int(said.out.splitlines()[-1].split()[0]), said

  assert done()[0] == 2
  assert done('--components', 'none')[0] == 0
  run.config.evaluation.components = 'validation'
  count, said = done()
  assert count == 0 and 'have not chosen' in said.err
  # MR's choice says nothing of CT.
  run.components['mr'] = {'grey': {'keep_largest': True}}
  assert done()[0] == 0
  run.components['ct'] = {'white': {'keep_largest': True}}
  count, said = done()
  assert count == 2 and 'ct: largest component alone of white' in said.out
  made = provenance.read(output)['a'].made_with
  assert made['largest_component'] == {'ct': ['white']}
  assert done('--components', 'validation')[0] == 0
  assert done('--components', 'largest')[0] == 2


def test_a_full_disk_leaves_nothing_half_written(folder, command, monkeypatch):
  def full(self, data):
    with self.open('wb') as file:
      file.write(data[: len(data) // 2])
    raise OSError(28, os.strerror(28))

  monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
  code, output = command(folder, '--modality', 'ct')
  assert code == 1 and not list(output.rglob('*.*'))


@pytest.mark.parametrize('moment', ['replace', 'unlink'])
def test_ctrl_c_while_results_are_written_leaves_no_part_of_one(
  moment, folder, command, monkeypatch, capsys
):
  """Before a file has its name, and just after."""
  replace = os.replace

  def stop(*names):
    if moment == 'unlink':
      replace(*names)
    raise KeyboardInterrupt

  monkeypatch.setattr(os, 'replace', stop)
  code, output = command(folder, '--modality', 'ct')
  assert code == 130 and not list(output.rglob('.partial*'))
  assert capsys.readouterr().err.splitlines()[-1].startswith('stopped: ')


@pytest.mark.parametrize('name', ['..', '.'])
def test_no_name_leaves_the_output_folder(name, tmp_path, monkeypatch):
  """A series named by its folder is named by the folder's real name."""
  place = tmp_path / 'inner' / 'deep'
  archive.write_dicom(
    place,
    fake_run.blocks((16, 14, 4)).astype(np.uint16),
    affine_of('LPS', SPACING),
    [1, 2, 3, 4],
    patient=1,
    series=1,
    protocol='T2',
  )
  (tmp_path / 'inner' / 'deep' / 'x').mkdir()
  monkeypatch.chdir(place / 'x' if name == '..' else place)
  assert list(scan_files.find(pathlib.Path(name)).scans) == ['deep']


def test_two_scans_of_one_name_are_refused(folder, command, capsys):
  _nifti(folder / 'a.nii', fake_run.blocks((9, 9, 9)), np.eye(4))
  code, output = command(folder, '--modality', 'ct')
  assert code == 1 and not (output / 'a.nii.gz').exists()
  said = capsys.readouterr().err
  assert 'has the same name as' in said and 'a.nii.gz' in said


@pytest.mark.parametrize(
  ('place', 'said'),
  [('nowhere', 'is not there'), ('empty', 'no scan in it')],
)
def test_an_input_without_scans_is_explained(
  place, said, tmp_path, command, capsys
):
  (tmp_path / 'empty').mkdir()
  assert command(tmp_path / place, '--modality', 'ct')[0] == 1
  assert said in capsys.readouterr().err


def _bytes(folder):
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('flags', [(), ('--overwrite',)])
def test_scans_are_never_written_over(folder, tmp_path, command, capsys, flags):
  """By whatever name their folder is given."""
  (tmp_path / 'link').symlink_to(folder)
  before = _bytes(folder)
  for place, output in (
    (folder, folder),
    (tmp_path / 'link', folder),
    (folder, tmp_path / 'link'),
    (folder, folder / '..' / 'in'),
    (folder / 'a.nii.gz', folder),
  ):
    code, _ = command(
      place, '--modality', 'ct', *flags, '--output', str(output)
    )
    assert code == 1
    assert 'over the scan itself' in capsys.readouterr().err
    assert _bytes(folder) == before


@pytest.mark.parametrize('link', [os.link, os.symlink])
def test_a_link_to_a_scan_is_no_result(folder, tmp_path, command, capsys, link):
  output = tmp_path / 'out'
  output.mkdir()
  link(folder / 'a.nii.gz', output / 'a.nii.gz')
  before = _bytes(folder)
  code, _ = command(folder, '--modality', 'ct', '--overwrite')
  assert code == 1 and 'by a link' in capsys.readouterr().err
  assert _bytes(folder) == before and len(list(output.iterdir())) == 1


def test_results_inside_of_the_input_are_never_read(folder, command, capsys):
  for name in ('b.nii.gz', 'c.nii'):
    (folder / name).unlink()
  flags = ('--modality', 'ct', '--output', str(folder / 'out'))
  assert command(folder, *flags)[0] == 0
  assert '2 scans segmented' in capsys.readouterr().out
  assert command(folder, *flags)[0] == 0
  assert '0 scans segmented' in capsys.readouterr().out
  # Nor by a run that writes elsewhere.
  assert command(folder, '--modality', 'ct')[0] == 0
  said = capsys.readouterr().out
  assert '2 scans segmented' in said and 'left out:' in said


def test_what_was_made_otherwise_is_made_again(folder, command, capsys):
  for name in ('b.nii.gz', 'c.nii'):
    (folder / name).unlink()
  said = lambda: capsys.readouterr().out.splitlines()[-1]
  command(folder, '--modality', 'ct')
  said()
  for flags, count in (
    (('--modality', 'ct'), 0),
    (('--modality', 'mr'), 2),
    (('--modality', 'mr', '--components', 'largest'), 2),
    (('--modality', 'mr', '--components', 'largest', '--overlay'), 2),
    (('--modality', 'mr', '--components', 'largest'), 0),
    (('--modality', 'mr', '--components', 'largest', '--volumes'), 2),
    (('--modality', 'mr', '--components', 'largest', '--volumes'), 0),
  ):
    assert command(folder, *flags)[0] == 0
    assert said().startswith(f'{count} scans segmented')
  # Another scan of the same name.
  _nifti(folder / 'a.nii.gz', fake_run.blocks((16, 14, 12))[::-1], np.eye(4))
  assert command(folder, *flags)[0] == 0
  assert said().startswith('1 scans segmented')


def test_each_result_says_what_it_was_made_from(folder, command, tmp_path):
  _, output = command(folder, '--modality', 'ct', '--overlay')
  found = provenance.read(output)
  assert sorted(found) == ['a', 'd']
  assert found['a'].scan == provenance.digest([folder / 'a.nii.gz'])
  assert found['a'].made_with['modality'] == 'ct'
  assert set(found['a'].files) == {'a.nii.gz', 'overlays/a.png'}
  for name, sha in found['a'].files.items():
    assert provenance.digest([output / name]) == sha
  assert str(tmp_path) not in (output / provenance.FILE).read_text()


def test_an_empty_result_is_told(folder, command, capsys):
  _nifti(
    folder / 'dark.nii.gz',
    (np.arange(800) % 9).astype(np.int16).reshape(8, 10, 10),
    np.eye(4),
  )
  command(folder, '--modality', 'ct')
  assert 'dark: nothing was found' in capsys.readouterr().out


def test_names_of_nnunet_are_written_as_cases(
  folder, command, tmp_path, capsys
):
  place = tmp_path / 'imagesTs'
  place.mkdir()
  for name in ('a', 'd'):
    (folder / f'{name}.nii.gz').rename(place / f'{name}_0000.nii.gz')
  _, output = command(place, '--modality', 'ct')
  assert sorted(p.name for p in output.glob('*.gz')) == ['a.nii.gz', 'd.nii.gz']
  (place / 'd_0000.nii.gz').rename(place / 'a_0001.nii.gz')
  assert command(place, '--modality', 'ct')[0] == 1
  assert 'channel 0001' in capsys.readouterr().err


@pytest.mark.parametrize('ending', ['.nii', '.mha', '.mhd', '.nrrd', '.hdr'])
def test_results_may_have_the_scans_own_format(ending, tmp_path):
  """Voxels and places come back as from NIfTI."""
  affine = affine_of('LPS', SPACING, (5, -3, 2), TURN.as_matrix())
  like = nifti.Volume(np.zeros(1), affine)
  voxels = fake_run.blocks((16, 14, 12))
  (tmp_path / 'in').mkdir()
  for name, data in itk.encode(voxels, like, 'scan', ending):
    (tmp_path / 'in' / name).write_bytes(data)
  found = {}
  for format in ('nifti', 'input'):
    output = tmp_path / format
    output.mkdir()
    _segment(tmp_path / 'in', output, format=format)
    (source,) = scan_files.find(output).scans.values()
    found[format] = scan_files.read(source, label=True)
  assert source.path.name == f'scan{ending}'
  np.testing.assert_array_equal(found['input'].voxels, found['nifti'].voxels)
  assert set(np.unique(found['input'].voxels)) == {0, 7, 420}
  np.testing.assert_allclose(
    found['input'].affine, found['nifti'].affine, atol=1e-4
  )


def test_a_segmentation_object_needs_a_dicom_series(folder, command, capsys):
  code, output = command(folder, '--modality', 'ct', '--format', 'dicom-seg')
  assert code == 1 and not list(output.glob('*.dcm'))
  assert '--format nifti' in capsys.readouterr().err


@pytest.mark.parametrize('form', ['dicom-seg', 'input'])
def test_a_series_comes_back_as_a_segmentation_object(form, tmp_path):
  place = tmp_path / 'in' / 'series'
  voxels = fake_run.blocks((16, 14, 12))
  archive.write_dicom(
    place,
    voxels.astype(np.uint16),
    affine_of('LIP', SPACING, (-80, 60, 5), TURN.as_matrix()),
    list(range(1, 13)),
    patient=1,
    series=1,
    protocol='T2',
  )
  output = tmp_path / 'out'
  output.mkdir()
  _segment(tmp_path / 'in', output, format=form, volumes=True)
  found = pydicom.dcmread(output / 'series.dcm')
  assert found.Modality == 'SEG' and found.PatientID == '1'
  labels = [item.SegmentLabel for item in found.SegmentSequence]
  assert labels == list(fake_run.CLASSES[1:])
  (row,) = csv.DictReader(
    (output / 'volumes.csv').read_text('utf-8-sig').splitlines()
  )
  counts = [np.isclose(voxels, v).sum() for v in (50, 100)]
  for name, count in zip(fake_run.CLASSES[1:], counts, strict=True):
    wanted = count * np.prod(SPACING) / 1000
    assert float(row[f'{name} (mL)']) == pytest.approx(wanted, rel=0.25)


def test_an_unknown_modality_and_sided_mirroring_are_told(
  folder, command, capsys
):
  assert command(folder, '--modality', 'pet')[0] == 1
  assert 'choose ct, mr' in capsys.readouterr().err
  command(folder, '--modality', 'ct', '--mirror')
  assert 'not trained on mirror images' in capsys.readouterr().err


def test_auto_without_the_runs_own_measurements_says_what_to_do(
  folder, command, capsys
):
  assert command(folder, '--modality', 'auto')[0] == 1
  assert '--config.eval_only=true' in capsys.readouterr().err


def test_a_trained_run_segments_scans_as_its_test_did(trained, cache, tmp_path):
  """Whole scans of the phantom, by the API that the command uses."""
  workdir, tested, _ = trained
  segmenter = dbdc_jax.load(workdir)
  assert [m.name for m in segmenter.runs[0].modalities] == ['ct', 'mr']
  split = json.loads((workdir / 'split.json').read_text())
  (root,) = cache.glob('phantom*-heart-tiny-5-0')
  name = split['mr']['test'][0]
  image = nifti.read_nifti(next(root.rglob(f'{name}_image.nii.gz')))
  found = segmenter.segment(image.voxels, 'mr', affine=image.affine)
  assert found.labels.shape == image.voxels.shape
  codes = {0, 205, 420, 500, 550, 600, 820, 850}
  assert set(np.unique(found.labels)) <= codes
  assert len(tested['cases']) > 0


def test_a_folder_that_is_no_run_is_refused(tmp_path):
  with pytest.raises(ValueError, match='finished run'):
    dbdc_jax.load(tmp_path)
