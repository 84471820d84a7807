"""Weight initializers, each named after the source that a paper takes it from."""

from flax import linen as nn

# He et al. 2015, arXiv:1502.01852, eq. 10, drawn uniformly: ±√(6 / fan_in), so that the variance is 2 / fan_in.
he_uniform = nn.initializers.he_uniform()
