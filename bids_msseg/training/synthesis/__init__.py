"""Label maps with lesions, and images of any contrast synthesised from them."""
