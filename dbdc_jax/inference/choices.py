"""What may be chosen when scans are segmented; known without jax."""

# Of the label maps that are written.
FORMATS = ('nifti', 'input', 'dicom-seg')
# Whether a run on cropped scans looks for the region first.
ROI = ('auto', 'none')
