"""The method, from images to lesions: pure functions that know neither BIDS nor nipype."""
