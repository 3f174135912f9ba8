"""Human-readable reports: HTML pages and figures."""
