"""Reliability of lesion masks on the user's own scans: painted lesions, pseudo-rescans."""
