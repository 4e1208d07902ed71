"""Parts of networks that know nothing of the tokens' meaning."""
