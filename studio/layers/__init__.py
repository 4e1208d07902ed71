"""Parts of networks that know nothing of tokens' meaning: attention, positions, norms, caches, blocks."""
