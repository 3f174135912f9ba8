"""Images as arrays with affines; knows neither BIDS nor nipype nor torch."""
