"""The programs beside the BIDS App: training and the demo dataset."""
