"""The cascade of Valverde et al. 2017 (arXiv 1702.04869): two patch nets on FLAIR candidates."""
