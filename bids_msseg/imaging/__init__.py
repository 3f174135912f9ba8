"""Images as arrays with affines; independent of BIDS, nipype and torch."""
