"""Reference densities: normalised, sampleable, with closed-form conditionals.

Every energy of this package carries a reference q. It is what makes the energy a density, where
tempering starts, and what is drawn when coordinates are clamped. A reference must therefore be
normalised, easy to draw, and known given *any* subset of its coordinates. Gaussians and mixtures
of Gaussians are all three.

Conditioning keeps the shape: the conditional of a reference over D coordinates is again a
reference over D coordinates, in which the observed ones are held at their values and the density
is taken over the free ones. Which coordinates are observed is an array, not a Python list, so one
compiled program serves every pattern of observation.
"""
