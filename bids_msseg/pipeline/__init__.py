"""The method, from images to lesions: pure functions independent of BIDS and nipype."""
