"""Shapes that recur in signatures, each named after what it is.

K modalities with b samples each, or N samples of any; C classes.
"""

from jaxtyping import Array, Bool, Float, Integer, Key

Scalar = Float[Array, '']
# A value of each modality, and which classes its labels contain.
PerModality = Float[Array, ' K']
Present = Bool[Array, 'K C']
# A step's slices by their modality.
Images = Float[Array, 'K b H W 1']
Labels = Integer[Array, 'K b H W']
Logits = Float[Array, 'K b H W C']
# Any images, features of images, and what belongs to each of them.
Slices = Float[Array, 'N H W 1']
Features = Float[Array, 'N H W c']
Ids = Integer[Array, ' N']  # modalities
Keys = Key[Array, ' N']
