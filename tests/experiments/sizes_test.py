import pytest

from dbdc_jax.experiments import paper, plan, sizes

# DBDC's projector is counted once here and, with its interpolation of all
# channels, twice in the paper; VarDA is counted there at 160 x 160.
ELSEWHERE = {'dbdc', 'dbdc_no_maw', 'dbdc_no_mlpb_maw', 'varda', 'varda_full'}


def _counted(name, tmp_path):
  options = plan.Options(tmp_path, preset='tiny')
  return {
    run.variant.name: (
      sizes.at_the_papers_settings(run),
      run.variant.paper['size'],
    )
    for run in plan.expand(paper.table(name), options)
  }


@pytest.mark.parametrize('name', ['1', '2'])
def test_sizes_are_those_that_the_paper_prints(name, tmp_path):
  """To its two digits, which it cuts off or rounds."""
  found = _counted(name, tmp_path)
  assert len(found) == len(paper.table(name).variants)
  for row, (size, (millions, giga)) in found.items():
    # The paper counts two modalities in both tables, here there are four.
    assert abs(size['parameters'] / 1e6 - millions) < 0.02
    if row not in ELSEWHERE:
      assert abs(size['macs'] / 1e9 - giga) < 0.011


def test_varda_at_its_own_patch_is_the_papers(tmp_path):
  options = plan.Options(tmp_path)
  runs = plan.expand(paper.table('1'), options)
  run = next(run for run in runs if run.variant.name == 'varda')
  size = sizes.at_the_papers_settings(run)
  scale = (160 / size['patch']) ** 2
  assert abs(size['macs'] * scale / 1e9 - 38.7) < 0.1


def test_what_is_not_available_has_no_size(tmp_path):
  table = paper.table('1', (), 'abdomen')
  runs = {r.variant.name: r for r in plan.expand(table, plan.Options(tmp_path))}
  assert sizes.at_the_papers_settings(runs['mass']) is None
  assert sizes.at_the_papers_settings(runs['dbdc'])['patch'] == 128
