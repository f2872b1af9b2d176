import functools
import sys

import numpy as np
import pytest

from data import preparation
from data.cache import record_writer
from data.cache.prepared import summary
from data.formats.nifti import ScanError
from data.readers import btcv
from data.task import ABDOMEN, Case, Scan

CT = ABDOMEN.modalities[0]


def _scan(seed):
  rng = np.random.default_rng(seed)
  image = rng.uniform(-125, 275, (12, 10, 3 + seed)).astype(np.float32)
  label = rng.integers(0, 5, image.shape).astype(np.uint8)
  return Scan(image, label, np.diag([2.0, 2.0, 5.0, 1.0]))


def _bad(name):
  raise ScanError(name, 'is broken', 'mend it')


@pytest.fixture
def archive(tmp_path, monkeypatch):
  """A reader with four scans; names in `broken` cannot be read."""
  broken = set()
  reads = []
  file = tmp_path / 'scan'
  file.write_text('x')

  def read(name, seed):
    reads.append(name)
    return _bad(name) if name in broken else _scan(seed)

  def cases(root, modalities, include_unlabeled):
    del root, include_unlabeled
    for seed in range(4):
      name = f'img{seed}'
      yield Case(
        name=name,
        patient=name,
        modality=modalities[0].name,
        files=(str(file),),
        labeled=True,
        read=functools.partial(read, name, seed),
      )

  monkeypatch.setattr(btcv, 'cases', cases)
  return broken, reads, file


def _prepare(tmp_path, **kwargs):
  settings = {'slice_size': 16, 'roi': 'none', 'quiet': True} | kwargs
  return preparation.prepare(
    ABDOMEN, [CT], {'btcv': 'x'}, cache=str(tmp_path / 'cache'), **settings
  )


def test_slices_come_back_in_order_without_tensorflow(archive, tmp_path):
  prepared = _prepare(tmp_path)
  assert [c.name for c in prepared.cases] == ['img0', 'img1', 'img2', 'img3']
  assert 'tensorflow' not in sys.modules
  for seed, case in enumerate(prepared.cases):
    assert case.num_slices == 3 + seed
    scan = _scan(seed)
    # Slices rise, rows run to the back, columns to the left.
    native = np.transpose(scan.label, (2, 1, 0))[:, ::-1, ::-1]
    np.testing.assert_array_equal(prepared.native_labels(case), native)
    np.testing.assert_array_equal(
      prepared.image(case, 2), prepared.images(case)[2]
    )
    np.testing.assert_array_equal(
      prepared.label(case, 1), prepared.labels(case)[1]
    )


def test_every_bad_scan_is_in_one_table(archive, tmp_path):
  broken, *_ = archive
  broken.update({'img1', 'img3'})
  with pytest.raises(preparation.BadScans) as caught:
    _prepare(tmp_path)
  text = str(caught.value)
  assert '2 scans cannot be used' in text and 'skip_bad' in text
  for name in broken:
    assert f'{name} | is broken | mend it' in text
  assert not any((tmp_path / 'cache').iterdir())


def test_bad_scans_can_be_left_out_and_are_recorded(archive, tmp_path):
  archive[0].add('img1')
  prepared = _prepare(tmp_path, skip_bad=True)
  assert [c.name for c in prepared.cases] == ['img0', 'img2', 'img3']
  assert prepared.skipped == [
    {'file': 'img1', 'reason': 'is broken', 'remedy': 'mend it'}
  ]
  again = _prepare(tmp_path, skip_bad=True)
  assert again.skipped == prepared.skipped


def test_another_error_is_not_taken_for_a_bad_scan(
  archive, tmp_path, monkeypatch
):
  archive[0].add('img2')

  def write(folder, slice_size, sources):
    for records in sources.values():
      list(records)
    raise OSError('no space left')

  monkeypatch.setattr(preparation.builder, 'write', write)
  with pytest.raises(OSError, match='no space left'):
    _prepare(tmp_path, skip_bad=True)
  assert not list((tmp_path / 'cache').iterdir())


def test_a_scan_that_is_there_twice_is_refused(archive, tmp_path, monkeypatch):
  cases = btcv.cases
  monkeypatch.setattr(btcv, 'cases', lambda *a: [*cases(*a), *cases(*a)])
  with pytest.raises(preparation.BadScans, match='the same scan as'):
    _prepare(tmp_path)


def test_all_bad_is_an_error_even_when_skipping(archive, tmp_path):
  archive[0].update(f'img{i}' for i in range(4))
  with pytest.raises(preparation.BadScans, match='4 scans'):
    _prepare(tmp_path, skip_bad=True)


def test_prepared_once_until_settings_or_files_change(archive, tmp_path):
  _, reads, file = archive
  first = _prepare(tmp_path)
  assert len(reads) == 4
  assert _prepare(tmp_path).folder == first.folder and len(reads) == 4
  assert _prepare(tmp_path, slice_size=24).folder != first.folder
  file.write_text('longer')
  assert _prepare(tmp_path).folder != first.folder


def test_interruption_leaves_nothing_half_usable(
  archive, tmp_path, monkeypatch
):
  def stop(*args, **kwargs):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(record_writer.preprocess, 'prepare_scan', stop)
    with pytest.raises(KeyboardInterrupt):
      _prepare(tmp_path)
  assert not any((tmp_path / 'cache').iterdir())
  assert len(_prepare(tmp_path).cases) == 4


def test_a_damaged_cache_says_what_to_remove(archive, tmp_path):
  folder = _prepare(tmp_path).folder
  (folder / 'prepared.json').write_text('{')
  with pytest.raises(ValueError, match=f'is damaged.*remove {folder}'):
    _prepare(tmp_path)


def test_fingerprint_says_what_the_data_is(archive, tmp_path):
  prepared = _prepare(tmp_path)
  facts = prepared.fingerprint['ct']
  assert facts['cases'] == facts['labeled'] == 4
  assert facts['slices'] == 3 + 4 + 5 + 6
  assert facts['median_spacing_mm'] == [5, 2, 2]
  assert facts['mm_per_pixel'] == pytest.approx(24 / 16)
  assert sum(facts['voxels_per_class'].values()) == 18 * 16 * 16
  assert facts['intensity_percentiles']['95'] > 0.8
  archive[0].add('img1')
  fewer = _prepare(tmp_path, skip_bad=True)
  assert fewer.fingerprint['hash'] != prepared.fingerprint['hash']
  assert 'ct: 4 scans' in summary(prepared)


def test_labels_change_nothing_but_labels(archive, tmp_path, monkeypatch):
  before = _prepare(tmp_path)
  plain = _scan

  def scrambled(seed):
    scan = plain(seed)
    rng = np.random.default_rng(99)
    return scan._replace(
      label=rng.permutation(scan.label.ravel()).reshape(scan.label.shape)
    )

  monkeypatch.setitem(globals(), '_scan', scrambled)
  archive[2].write_text('other time')
  after = _prepare(tmp_path)
  assert [c.content for c in after.cases] == [c.content for c in before.cases]


@pytest.mark.parametrize('form', ['', 'x/..', 'link'])
def test_nothing_is_prepared_into_the_folder_of_the_scans(
  archive, tmp_path, form
):
  (tmp_path / 'x').mkdir()
  (tmp_path / 'link').symlink_to(tmp_path)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(ValueError, match='holds the scans'):
    preparation.prepare(
      *(ABDOMEN, [CT], {'btcv': 'x'}),
      slice_size=16,
      roi='none',
      quiet=True,
      cache=str(tmp_path / form),
    )
  assert sorted(tmp_path.iterdir()) == before and not archive[1]
