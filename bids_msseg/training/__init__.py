"""Training of the networks: data, synthesis and the programs that run them."""
