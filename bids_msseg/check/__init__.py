"""How far masks can be believed on the user's own scans: painted lesions, pseudo-rescans."""
