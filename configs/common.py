"""Every field of a config, with its meaning and the paper's value.

A config file calls `base()`, then `arguments()` for the `key=value` pairs that
stand behind its name on the command line, and sets what its task needs. Fields
are overridden by `--config.field=value`, which always wins.
"""

from collections.abc import Sequence
from typing import Any

import ml_collections

from configs import presets
from data.task import TASKS


def sources(*names: str) -> tuple[str, ...]:
  """The archives of the named tasks; without names, all that can be read."""
  found = (
    modality.source
    for name in names or TASKS
    for modality in TASKS[name].modalities
  )
  return tuple(dict.fromkeys([*found, *([] if names else ['folder'])]))


# Name, with that of its group -> the paper's value.
FIELDS: dict[str, Any] = {
  # 'heart' or 'abdomen' (data/task.py), or the path of a dataset.json.
  'task': '',
  # Comma-separated modality names in bank order; '' means all of the task.
  'modalities': '',
  # 'dbdc', 'supervised' (labelled scans alone), or one of the paper's methods
  # for one modality ('mean_teacher', 'uamt', 'cps', 'ict', 'evil'), for two who
  # teach each other ('summl', 'mass'), or from one to another (see source,
  # target). They are the files of dbdc_jax/methods/.
  'method': 'dbdc',
  # 'dbdc': everything but the method as in DBDC. 'own': methods other than DBDC
  # are trained as they were published instead: SGD (momentum 0.9, weight decay
  # 1e-4, 'evil' 1e-3), optimizer.own_learning_rate, no scaling and no intensity
  # curves (augment.scale, .intensity_labeled), a Gaussian ramp over all epochs
  # and no supervised ones (dc.ramp, dc.warmup_epochs). Epochs and batch stay:
  # published are 30,000 steps of 12 + 12 slices (batch_size 12). Transfers:
  # Adam of rate 1e-3, see their files.
  # 'plus': DBDC with what docs/evidence.md tests. It stands for several
  # fields (configs/presets.py), so it is chosen behind the config's name:
  # configs/heart.py:recipe=plus.
  'recipe': 'dbdc',
  # 'ram_dsir' and 'varda' transfer from this labelled modality ('_full': with
  # all of its training labels); '' = the first of the run's two ...
  'source': '',
  # ... to this one, whose training labels are never read, and whose test scans
  # are scored; '' = the second.
  'target': '',
  # 'true': one network takes all modalities; 'false': one network for each;
  # 'auto': as is the method's way (dbdc: one for all, the others: one each).
  'joint': 'auto',
  # Weights, batches, augmentation. Who is in which split: config.data.
  'seed': 0,
  # Share of the training patients whose labels are used; 1 = upper bound.
  'labeled_fraction': 0.2,
  # What preset=auto may take to train on this machine; 0 = an hour on a CPU, on
  # a GPU or TPU what the paper's epochs take. Other presets have no use for it.
  'minutes': 0.0,
  # Passes over the largest modality's unlabelled slices.
  'epochs': 100,
  # Labelled and as many unlabelled slices per modality and step.
  'batch_size': 8,
  # 'auto' (bfloat16 on GPU and TPU, float32 on CPU), 'float32', 'bfloat16'.
  'dtype': 'auto',
  # The same bits each time on a GPU too, which makes it slower; CPUs give them
  # anyway with the same number of threads (set NPROC).
  'deterministic': False,
  # Only test the finished run of the workdir again.
  'eval_only': False,
  # Workdir of a finished run, or an export, whose best weights and memory to
  # start from. Its modalities may be some of this run's: they are found by
  # name, and new ones start from the mean of its bank rows.
  'init_from': '',
  # 'banks': only the bank rows of modalities that init_from lacks are trained;
  # all else keeps its bits. '' = everything is trained.
  'train_only': '',
  # What this config is expected to take and give; the banner prints it.
  'expectation': '',
  # --- data
  # Folder of each archive (mmwhs, btcv, chaos), or of own scans (folder); all
  # empty means: the built-in phantom.
  **{f'data.{source}': '' for source in sources()},
  # Side of the square prepared slices, in pixels; the scan's longer side.
  'data.slice_size': 0,
  # 'label' crops to the label's bounding box (scans without a label stay
  # whole), 'none' keeps whole slices.
  'data.roi': '',
  # Where prepared data is kept; '' = dbdc_jax in the user's cache folder.
  'data.cache': '',
  # Go on without bad scans (listed and recorded) instead of stopping.
  'data.skip_bad': False,
  # Add the archives' own test scans (no labels) to the unlabelled set.
  'data.extra_unlabeled': False,
  # Percent of the patients that train, validate and test ...
  'data.shares': '70,10,20',
  # ... drawn by this seed ...
  'data.split_seed': 0,
  # ... rotated by this fold (0 to 4: of the usual shares five disjoint test
  # sets) ...
  'data.fold': 0,
  # ... or read from a split.json of another run, which also says who is
  # labelled (labeled_fraction is not used then).
  'data.split': '',
  # What would be lost with fewer labels: each class is taken as drawn in this
  # share of the labelled training scans, chosen at random ...
  'data.drawn_share': 1.0,
  # ... and one of so many slices.
  'data.drawn_every': 1,
  # Decoded slices of training and validation are kept in memory up to this
  # size, on a GPU or TPU in its own memory where they fit; the rest is
  # decoded again each time.
  'data.memory_limit_gib': 8.0,
  # --- model
  # Channels of the first convolution; all others scale with it.
  'model.width': 32,
  # D, length of an embedding and of a prototype.
  'model.embedding_dim': 64,
  # Where a network of several modalities has a normalisation of its own for
  # each (MLMB, the paper's Table IV): 'all', 'encoder+bottleneck', 'encoder' or
  # 'none'. Elsewhere they share one, through which each goes on its own.
  # 'mixed': none, and all modalities go through it together.
  'model.modulation': 'all',
  # --- augment
  # Side of the random training crops, in pixels; divisible by 8.
  'augment.patch_size': 96,
  # Rotation by up to this many degrees either way.
  'augment.rotation': 20.0,
  # Quarter turns and flips instead, every other time (not for organs that
  # have a side).
  'augment.flips': False,
  # Scale per axis, uniform in 1 -+ this.
  'augment.scale': 0.1,
  # Chance of the intensity curve on labelled images.
  'augment.intensity_labeled': 0.25,
  # Chance and standard deviation of the strong view's Gaussian noise.
  'augment.noise_probability': 0.5,
  'augment.noise_sigma': 0.1,
  # --- mpcl
  # False switches MLPB (projector, prototypes, all of MPCL) off.
  'mpcl.enabled': True,
  # Each term of eq 12: prototype segmentation, modality contrast, prototype
  # contrast, prototype distance.
  'mpcl.pseg': True,
  'mpcl.mc': True,
  'mpcl.pc': True,
  'mpcl.pd': True,
  # Weights of the terms: 'printed' (delta / 4 each), or those of the authors'
  # later 'code': L_pseg 2.0, the others 0.2 in labelled and 0.4 in unlabelled
  # slices. With 'code' go start=warmup and momentum=0.999.
  'mpcl.reading': 'printed',
  # delta, weight of MPCL in eq 18, 19 and 21.
  'mpcl.delta': 0.1,
  # When prototypes start and MPCL begins to act: at the 'first' step or after
  # the epochs of dc.warmup_epochs ('warmup').
  'mpcl.start': 'first',
  # What L_mc does with the other modalities' prototypes of the same class:
  # 'separate' (eq 9) or 'align'.
  'mpcl.across': 'separate',
  # tau of eq 10.
  'mpcl.temperature': 0.1,
  # alpha of eq 7.
  'mpcl.momentum': 0.99,
  # 'sinkhorn' (eq 4-6) or 'label': every pixel joins its label's prototype.
  'mpcl.assignment': 'sinkhorn',
  # Entropy weight (phi of eq 5) and number of Sinkhorn iterations.
  'mpcl.epsilon': 0.05,
  'mpcl.iterations': 3,
  # Embeddings at every n-th pixel in each direction; 1 = the paper.
  'mpcl.stride': 1,
  # --- dc
  # Image and feature perturbation consistency (eq 18, 19); with both off,
  # unlabelled scans are not used.
  'dc.ipc': True,
  'dc.fpc': True,
  # 'gaussian' (the paper's ramp over all epochs) or 'constant'.
  'dc.ramp': 'gaussian',
  # Supervised-only epochs at the start.
  'dc.warmup_epochs': 4,
  # Share of bottleneck elements that the dropout pass drops.
  'dc.dropout': 0.5,
  # Who makes the pseudo-labels: the 'student' in train mode (the paper), or a
  # 'teacher', the average of past students (ssl.decay) with the running
  # statistics, which is then validated and tested, too.
  'dc.pseudo': 'student',
  # Pixels whose pseudo-label is less probable than this are left out; 0 = the
  # paper, none.
  'dc.confidence': 0.0,
  # Chance that half of a strong view is another slice of its modality (CutMix);
  # 0 = the paper.
  'dc.cutmix': 0.0,
  # --- ssl
  # The semi-supervised methods other than DBDC.
  # Largest weight of the unlabelled losses; the ramp multiplies it.
  'ssl.weight': 0.1,
  # mean_teacher, uamt, ict, and dbdc with dc.pseudo=teacher: largest share of
  # the teacher that a step keeps.
  'ssl.decay': 0.99,
  # mean_teacher, uamt: standard deviation of the noise on its images.
  'ssl.noise': 0.1,
  # uamt: noisy passes that its uncertainty is taken from.
  'ssl.passes': 8,
  # ict: both parameters of the Beta distribution that shares are drawn from.
  'ssl.mix': 0.2,
  # evil: pseudo-labels of a larger uncertainty (C over the Dirichlet's
  # strength) are left out. It is at least 0.084 with 5 classes, 0.128 with 8.
  'ssl.threshold': 0.2,
  # summl: first learning rate of translators and discriminators; it falls as
  # optimizer.learning_rate does, which is the segmenters'.
  'ssl.gan_learning_rate': 2e-4,
  # summl: earlier translations into each modality that discriminators are
  # shown (at least a step's are kept).
  'ssl.pool': 50,
  # --- ram_dsir
  # Half of the side of the mixed square of low frequencies, as a share of the
  # image's side.
  'ram_dsir.window': 0.1,
  # Weight of the two views' divergence, and of the restored image's error.
  'ram_dsir.consistency': 0.5,
  'ram_dsir.restoration': 0.1,
  # --- varda
  # Weights: of the source's cross entropies, of the drawn images' error, of the
  # latents' divergence from the normal distribution, of the domains' distance.
  'varda.segmentation': 1000.0,
  'varda.drawing': 10.0,
  'varda.prior': 1.0,
  'varda.distance': 1e-3,
  # --- mass
  # The method 'mass', which registers whole scans.
  # Slices that each scan is resampled to; divisible by 8, as data.slice_size.
  'mass.depth': 40,
  # Labelled and as many unlabelled scans per modality and step, instead of
  # batch_size slices; divisible by the number of devices.
  'mass.volumes': 1,
  # --- weighting
  # dbdc: False: all modalities weigh 1 (as they always do in other methods).
  'weighting.enabled': True,
  # Bounds 'low,high' of a modality's learning speed over the modalities'
  # geometric mean; '' = the paper, none.
  'weighting.clip': '',
  # Added to both sums of the learning speed (ops/weighting.py), above 0. 1e-8
  # is the paper's; with 1e-4 a dip by 0.1 % moves no weight.
  'weighting.smoothing': 1e-8,
  # 'printed': by the DSC of the epoch's labelled batches, on all losses. The
  # authors' later 'code': by that of the labelled scans, segmented after each
  # epoch, on the supervised losses alone.
  'weighting.reading': 'printed',
  # --- optimizer
  # Adam, decayed polynomially to 0 with this power.
  'optimizer.learning_rate': 1e-4,
  'optimizer.power': 0.9,
  # SGD's first learning rate with recipe=own.
  'optimizer.own_learning_rate': 0.01,
  # --- evaluation
  # Slices per call of the sliding window; each GPU or TPU takes four times as
  # many, to be filled.
  'evaluation.batch_size': 8,
  # Validate every n-th epoch (and the last).
  'evaluation.every': 1,
  # Test the last epoch's checkpoint, too: its scores stand beside the best's in
  # results.json ('last').
  'evaluation.last': False,
  # Overlay pictures per modality after the test.
  'evaluation.overlays': 3,
  # After training the validation scans choose, per modality, the classes of
  # which the largest component alone is kept (evaluation/components.py). The
  # test is scored without and with that. 'none': the results are those without,
  # as in the paper; 'validation': those with it. The others stand beside them,
  # and prediction does as the results do.
  'evaluation.components': 'none',
  # --- phantom
  # Subjects per modality, and the seed that they are drawn from.
  'phantom.subjects': 20,
  'phantom.seed': 0,
  # 'quick' or 'tiny' (for tests).
  'phantom.size': 'quick',
}


def base() -> ml_collections.ConfigDict:
  """The paper's settings, without a task."""
  nested: dict[str, Any] = {}
  for name, value in FIELDS.items():
    group, _, field = name.rpartition('.')
    fields = nested.setdefault(group, {}) if group else nested
    fields[field] = value
  return ml_collections.ConfigDict(nested)


def pairs(argument: str | None, allowed: Sequence[str]) -> dict[str, str]:
  """Reads `key=value,key=value`.

  Args:
    argument: the text, or None.
    allowed: the keys that may occur, each once.

  Raises:
    ValueError: for an unknown or a repeated key, or a pair without '='.
  """
  given: dict[str, str] = {}
  for pair in filter(None, (argument or '').split(',')):
    key, equals, value = pair.partition('=')
    if not equals or key not in allowed or key in given or not value:
      raise ValueError(
        f'config argument {pair!r}: expected KEY=VALUE, each key once, with'
        f' KEY one of {", ".join(allowed)} (for example'
        ' configs/heart.py:scans=/data/mmwhs,method=dbdc)'
      )
    given[key] = value
  return given


def arguments(config: ml_collections.ConfigDict, argument: str | None) -> str:
  """Applies what stands behind the config's name: `:key=value,key=value`.

  `preset=NAME` chooses the sizes: 'paper' changes nothing and is the default
  with scans, 'quick' is the default without, 'tiny' is the smallest, 'auto' is
  what fits scans, device and `minutes`.
  `recipe=NAME` is 'dbdc' (the paper's, default), 'own' or 'plus'.

  Args:
    config: changed in place; its task says which archives there are. A task
      of one archive takes `scans=DIR` for it, one of several expects a
      subfolder for each.
    argument: the text behind the colon, or None.

  Returns:
    The preset's name.

  Raises:
    ValueError: for an unknown or a repeated key, a pair without '=', or an
      unknown preset or recipe.
  """
  task = TASKS[config.task]
  config.data.slice_size, config.data.roi = task.slice_size, task.roi
  archives = sources(config.task)
  allowed = ('scans', 'method', 'preset', 'recipe', *archives)
  given = pairs(argument, allowed)
  config.method = given.get('method', config.method)
  for source in archives:
    folder = given.get(source, '')
    if not folder and 'scans' in given:
      folder = given['scans'].rstrip('/')
      folder += f'/{source}' if len(archives) > 1 else ''
    config.data[source] = folder
  scans = given.keys() - {'method', 'preset', 'recipe'}
  name = given.get('preset', 'paper' if scans else 'quick')
  presets.choose(config, name)
  presets.recipe(config, given.get('recipe', 'dbdc'))
  return name
