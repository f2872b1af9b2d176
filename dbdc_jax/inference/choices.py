"""What may be chosen when scans are segmented; known without jax."""

# Of the label maps that are written.
FORMATS = ('nifti', 'input', 'dicom-seg')
# Whether a run on cropped scans looks for the region first.
ROI = ('auto', 'none')
# Whose largest component alone is kept: of the classes that the run's results
# say, of none, of those that its validation scans chose, of all.
COMPONENTS = ('run', 'none', 'validation', 'largest')
