"""nipype workflow factories: which node feeds which."""
