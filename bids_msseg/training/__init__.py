"""Training of the networks: data, synthetic images and training programs."""
